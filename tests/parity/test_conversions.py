# SPDX-License-Identifier: MIT
"""private_mem_conversions_test: what each side sees before, during and after a conversion.

The guest fills its data with patterns and asks for conversions by hypercall; the host converts, and
looks at the shared side. On each range: shared, private, shared again.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from pyvmm.hosts import exits
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.mapping import Mapping
from pyvmm.hosts.kvm.system import System

from .conftest import RUNAWAY_SECONDS
from .scripted_guest import (
    DONE_EXIT,
    MAP_GPA_RANGE,
    PAGE,
    Script,
    ScriptedGuest,
    not_longer_than,
)

pytestmark = [pytest.mark.kvm, pytest.mark.slow]

MIB = 1 << 20
DATA = 1 << 32
"""GPA of the data: far from the guest's code."""
SPAN = 2 * MIB + PAGE
"""Bytes that each vCPU works on."""
ROOM = 4 * MIB
"""Bytes from one vCPU's data to the next one's."""

KERNEL_RANGES = (
    (0, PAGE),
    (0, 2 * MIB),
    (PAGE, PAGE),
    (PAGE, 2 * MIB),
    (2 * MIB, PAGE),
)
"""Offset and size: a page, a large page, and both where they are not expected to be."""
WITH_HOLES = (3 * PAGE, 8 * PAGE)
"""A range of which single pages go back to shared. The kernel's test has the loop for that, but
leaves it out for every range that has more than one page."""

SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2)]
"""vCPUs, and memslots over the one guest_memfd. One vCPU and two memslots: a range in both."""


class Ask(enum.IntFlag):
    """The hypercall's attributes: what KVM defines, and in bits that it ignores, our own wishes."""

    SHARED = 0
    PRIVATE = 1 << 4
    ATTRIBUTES = 1 << 8
    FILE = 1 << 9
    """Allocate the private side, or free it, before the attributes change."""


@dataclass(frozen=True)
class TwoSided:
    """A scripted guest with data that has two sides; at GPA `DATA`, in file and mapping at 0."""

    guest: ScriptedGuest
    shared: Mapping
    file: GuestMemfd

    def convert(self, call: exits.Hypercall) -> int:
        assert call.number == MAP_GPA_RANGE
        gpa, pages, wish = call.args[:3]
        size, ask = pages * PAGE, Ask(wish)
        if Ask.FILE in ask and Ask.PRIVATE in ask:
            self.file.allocate(gpa - DATA, size)
        elif Ask.FILE in ask:
            self.file.punch_hole(gpa - DATA, size)
        if Ask.ATTRIBUTES in ask:
            attributes = MemoryAttribute.PRIVATE if Ask.PRIVATE in ask else MemoryAttribute(0)
            self.guest.vm.set_memory_attributes(gpa, size, attributes)
        return 0

    def look(self, gpa: int, size: int, expected: int, then: int | None = None) -> None:
        """The host finds `expected` on the shared side, and fills it with `then`."""
        at = slice(gpa - DATA, gpa - DATA + size)
        with self.shared.view() as view:
            assert bytes(view[at]) == bytes([expected]) * size
            if then is not None:
                view[at] = bytes([then]) * size

    def run(self, scripts: list[Script]) -> None:
        """One vCPU for each, all at once."""

        def run_one(index: int) -> exits.Exit:
            with self.guest.vcpu(index) as vcpu:
                return vcpu.run(scripts[index], self.convert)

        with ThreadPoolExecutor(len(scripts)) as threads:
            assert set(threads.map(run_one, range(len(scripts)))) == {DONE_EXIT}


@contextmanager
def two_sided(system: System, code: bytes, vcpus: int, memslots: int) -> Iterator[TwoSided]:
    """Data for `vcpus` vCPUs, cut into `memslots` slots of one size."""
    size = ROOM * vcpus
    part = size // memslots
    with (
        system.create_vm(VmType.SW_PROTECTED) as vm,
        ScriptedGuest(system, vm, code) as guest,
        system.map_anonymous(size) as shared,
        vm.create_guest_memfd(size) as file,
        not_longer_than(RUNAWAY_SECONDS, guest),
    ):
        vm.enable_hypercall_exits(1 << MAP_GPA_RANGE)
        for number in range(memslots):
            at = part * number
            vm.set_memslot(
                Memslot(
                    10 + number,
                    DATA + at,
                    part,
                    shared.hva + at,
                    guest_memfd=file,
                    guest_memfd_offset=at,
                )
            )
        for index in range(vcpus):
            guest.tables.map(DATA + ROOM * index, DATA + ROOM * index, SPAN)
        yield TwoSided(guest, shared, file)


def add_conversions(script: Script, memory: TwoSided, base: int, *, through_file: bool) -> None:
    """Every range of `base`, there and back."""
    how = Ask.ATTRIBUTES | (Ask.FILE if through_file else Ask(0))
    found, background = 0xAA, 0xCC
    # Shared to begin with.
    script.fill(base, SPAN, found)
    script.check(base, SPAN, found)
    script.host(lambda: memory.look(base, SPAN, found, then=background))
    script.check(base, SPAN, background)
    for offset, size in (*KERNEL_RANGES, WITH_HOLES):
        add_there_and_back(script, memory, base, (base + offset, size), how)
        script.fill(base + offset, size, background)
        # All private memory goes, so that each range begins with nothing in the file.
        script.convert(base, SPAN, Ask.ATTRIBUTES | Ask.FILE | Ask.SHARED)


def add_there_and_back(
    script: Script, memory: TwoSided, base: int, span: tuple[int, int], how: Ask
) -> None:
    gpa, size = span
    before, private, after, last, background = 0x11, 0x22, 0x33, 0x44, 0xCC
    script.fill(gpa, size, before)
    script.convert(gpa, size, how | Ask.PRIVATE)
    if size <= WITH_HOLES[1]:
        script.fill(gpa, size, private)
        script.host(lambda: memory.look(gpa, size, before))
        script.check(gpa, size, private)
        script.check(base, gpa - base, background)
        script.check(gpa + size, base + SPAN - gpa - size, background)
        add_holes(script, memory, span, how)
    else:
        script.fill(gpa, PAGE, private)
    script.convert(gpa, size, how | Ask.SHARED)
    # What was private is gone or stale: only what is written from now on counts.
    script.fill(gpa, size, after)
    script.host(lambda: memory.look(gpa, size, after, then=last))
    script.check(gpa, size, last)


def add_holes(script: Script, memory: TwoSided, span: tuple[int, int], how: Ask) -> None:
    """Every other page of a private range goes back to shared; the ones between stay."""
    before, private, after = 0x11, 0x22, 0x33

    def page(at: int, *, to_shared: bool) -> None:
        if to_shared:
            script.convert(at, PAGE, how | Ask.SHARED)
            script.host(lambda: memory.look(at, PAGE, before, then=after))
            script.check(at, PAGE, after)
        else:
            script.host(lambda: memory.look(at, PAGE, before))
            script.check(at, PAGE, private)

    for number in range(span[1] // PAGE):
        page(span[0] + number * PAGE, to_shared=bool(number & 1))


def add_punched_holes(script: Script, base: int, *, precise: bool) -> None:
    """Private memory that is freed without a conversion reads as zeroes from then on."""
    pattern = 0xCC
    script.convert(base, SPAN, Ask.ATTRIBUTES | Ask.PRIVATE)
    for offset, size in KERNEL_RANGES:
        gpa = base + offset
        script.convert(base, SPAN, Ask.FILE | Ask.SHARED)
        filled = (gpa, size) if precise else (base, SPAN)
        script.fill(*filled, pattern)
        script.check(*filled, pattern)
        script.convert(gpa, size, Ask.FILE | Ask.SHARED)
        script.check(gpa, size, 0)
        if not precise:
            script.check(base, gpa - base, pattern)
            script.check(gpa + size, base + SPAN - gpa - size, pattern)


@pytest.mark.parametrize(("vcpus", "memslots"), SHAPES)
@pytest.mark.parametrize("through_file", [False, True], ids=["attributes", "attributes-and-file"])
def test_there_and_back(
    private_host: System, interpreter: bytes, vcpus: int, memslots: int, through_file: bool
) -> None:
    with two_sided(private_host, interpreter, vcpus, memslots) as memory:
        scripts = [Script() for _ in range(vcpus)]
        for index, script in enumerate(scripts):
            add_conversions(script, memory, DATA + index * ROOM, through_file=through_file)
        memory.run(scripts)


@pytest.mark.parametrize(("vcpus", "memslots"), SHAPES)
@pytest.mark.parametrize("precise", [False, True], ids=["all-filled", "range-filled"])
def test_punched_holes_read_as_zeroes(
    private_host: System, interpreter: bytes, vcpus: int, memslots: int, precise: bool
) -> None:
    with two_sided(private_host, interpreter, vcpus, memslots) as memory:
        scripts = [Script() for _ in range(vcpus)]
        for index, script in enumerate(scripts):
            add_punched_holes(script, DATA + index * ROOM, precise=precise)
        memory.run(scripts)


@pytest.mark.parametrize(("vcpus", "memslots"), SHAPES)
def test_all_in_one_run_and_the_file_outlives_the_vm(
    private_host: System, interpreter: bytes, vcpus: int, memslots: int
) -> None:
    """Each vCPU does everything on the same memory; then the VM's fd and its vCPUs are closed."""
    with two_sided(private_host, interpreter, vcpus, memslots) as memory:
        scripts = [Script() for _ in range(vcpus)]
        for index, script in enumerate(scripts):
            base = DATA + index * ROOM
            for through_file in (False, True):
                add_conversions(script, memory, base, through_file=through_file)
            for precise in (False, True):
                add_punched_holes(script, base, precise=precise)
        memory.run(scripts)
        memory.guest.vm.close()
        memory.file.punch_hole(0, memory.file.size)
        memory.file.allocate(0, memory.file.size)
