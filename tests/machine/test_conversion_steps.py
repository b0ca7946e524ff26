# SPDX-License-Identifier: MIT
"""The order of a conversion's steps, seen from outside: first the attributes, then the pages.

On real VMs: whatever an executor does, pages must still be there when the attributes are set, and
stay there when they cannot be; and a page is noted to be where the guest finds it.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, cast

import pytest

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import (
    GuestMapping,
    GuestMemfd,
    Memslot,
    MemslotFlag,
    ServedSpan,
    System,
    Vm,
)
from pyvmm.hosts.kvm.binding import lib, new
from pyvmm.hosts.kvm.constants import ExitReason
from pyvmm.hosts.kvm.conversions import FastConversions
from pyvmm.hosts.kvm.system import System as KvmSystem
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import MemoryRegion
from pyvmm.rules.abi import PAGE_SIZE
from tests.differential.guests import RunningGuest

RAM = GpaRange(0x10000, 0x20000)
PAGES = RAM.size // PAGE_SIZE
OFFSET = 0x4000
KVM_HC_MAP_GPA_RANGE = 12
KVM_HC_SHARED, KVM_HC_PRIVATE = 0, 1 << 4


class Observed:
    """A VM whose attributes are set through `before`, which may fail; otherwise itself."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self.before: Callable[[int, int], None] = lambda _gpa, _size: None

    def set_memory_attributes(self, gpa: int, size: int, attributes: MemoryAttribute) -> None:
        self.before(gpa, size)
        self._vm.set_memory_attributes(gpa, size, attributes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vm, name)


@dataclass(frozen=True)
class Sides:
    """One region, its two sides, and who watches."""

    vm: Observed
    memory: GuestMemory
    guest: RunningGuest
    mapping: GuestMapping
    file: GuestMemfd
    view: memoryview

    def resident(self, gpa: int, size: int) -> tuple[int, int]:
        """Bytes that the kernel holds for the shared and for the private side."""
        offset = OFFSET + gpa - RAM.start
        return self.mapping.resident(offset, size), self.file.resident(offset, size)


@pytest.fixture
def sides(each_private_system: System) -> Iterator[Sides]:
    """A region, all shared, that a guest beside it can touch."""
    with ExitStack() as owned:
        vm = owned.enter_context(each_private_system.create_vm(VmType.SW_PROTECTED))
        mapping = owned.enter_context(each_private_system.map_anonymous(OFFSET + RAM.size))
        file = owned.enter_context(vm.create_guest_memfd(OFFSET + RAM.size))
        view = mapping.view()
        owned.callback(view.release)
        observed = Observed(vm)
        memory = GuestMemory(cast(Vm, observed))
        owned.callback(memory.close)
        memslot = Memslot(
            1, RAM.start, RAM.size, mapping.hva + OFFSET, MemslotFlag.GUEST_MEMFD, file, OFFSET
        )
        vm.set_memslot(memslot)
        region = MemoryRegion(1, RAM, True, "RAM")
        memory.regions.add(MemorySides(region, memslot, mapping, view, OFFSET))
        guest = RunningGuest(each_private_system, vm)
        owned.callback(guest.close)
        yield Sides(observed, memory, guest, mapping, file, view)


def by_host(sides: Sides, to: Side) -> None:
    sides.memory.conversion.convert(RAM.start, 2 * PAGE_SIZE, to)


def by_guest(sides: Sides, to: Side) -> None:
    attributes = KVM_HC_PRIVATE if to is Side.PRIVATE else KVM_HC_SHARED
    result = sides.memory.exits.answer_hypercall((RAM.start, 2, attributes))
    if result:
        raise SystemCallError("convert", -result, "as the guest is told")


WAYS = pytest.mark.parametrize("way", [by_host, by_guest], ids=["host", "guest"])
BOTH = pytest.mark.parametrize("to", list(Side), ids=lambda side: side.value)


def fill(sides: Sides, to: Side) -> tuple[int, int]:
    """Two pages on the side that a conversion to `to` leaves; what is resident then."""
    if to is Side.SHARED:
        sides.memory.conversion.convert(RAM.start, 2 * PAGE_SIZE, Side.PRIVATE)
    for page in range(2):
        assert sides.guest.touch(RAM.start + page * PAGE_SIZE, 0x11 + page) == "done"
    resident = sides.resident(RAM.start, 2 * PAGE_SIZE)
    full = 2 * PAGE_SIZE
    assert resident == ((0, full) if to is Side.SHARED else (full, 0))
    return resident


@WAYS
@BOTH
def test_the_pages_are_there_until_the_attributes_are_set(
    sides: Sides, to: Side, way: Callable[[Sides, Side], None]
) -> None:
    filled = fill(sides, to)
    seen: list[tuple[int, int]] = []
    sides.vm.before = lambda gpa, size: seen.append(sides.resident(gpa, size))
    way(sides, to)
    assert seen == [filled]
    assert sides.resident(RAM.start, 2 * PAGE_SIZE) == (0, 0)


@WAYS
@BOTH
def test_nothing_is_given_back_where_the_attributes_cannot_be_set(
    sides: Sides, to: Side, way: Callable[[Sides, Side], None]
) -> None:
    filled = fill(sides, to)
    before = sides.memory.states.runs()

    def fail(_gpa: int, _size: int) -> None:
        raise SystemCallError("set attributes", errno.ENOMEM, "ENOMEM")

    sides.vm.before = fail
    with pytest.raises(SystemCallError):
        way(sides, to)
    assert sides.memory.states.runs() == before
    assert sides.resident(RAM.start, 2 * PAGE_SIZE) == filled
    for page in range(2):
        assert sides.guest.touch(RAM.start + page * PAGE_SIZE, None) == f"reads {0x11 + page:#04x}"


def test_every_page_is_noted_to_be_where_the_guest_finds_it(sides: Sides) -> None:
    chance = random.Random(5)
    for _ in range(40):
        first = chance.randrange(PAGES)
        pages = chance.randint(1, PAGES - first)
        to = chance.choice(list(Side))
        sides.memory.conversion.convert(RAM.start + first * PAGE_SIZE, pages * PAGE_SIZE, to)
        for page in range(PAGES):
            sides.view[OFFSET + page * PAGE_SIZE] = 0x77
        for page in range(PAGES):
            gpa = RAM.start + page * PAGE_SIZE
            found = sides.guest.touch(gpa, None)
            noted = sides.memory.states.at(gpa)
            assert (found, noted) in {
                ("reads 0x77", PageState.SHARED),
                ("reads 0x00", PageState.PRIVATE),
            }, f"{gpa:#x} after {first}, {pages} to {to.value}"


@pytest.mark.kvm
@BOTH
def test_the_run_loop_gives_nothing_back_where_the_attributes_cannot_be_set(to: Side) -> None:
    """Its VM is a file, which has no attributes (ENOTTY)."""
    with KvmSystem() as kvm, kvm.create_vm() as vm, kvm.map_anonymous(PAGE_SIZE) as shared:
        if not kvm.capabilities().guest_memfd:
            pytest.skip("this host has no guest_memfd")
        with (
            open("/dev/null", "rb") as no_vm,
            FastConversions(no_vm.fileno()) as conversions,
            vm.create_guest_memfd(PAGE_SIZE) as file,
            shared.view() as view,
        ):
            view[0] = 7
            file.allocate(0, PAGE_SIZE)
            conversions.serve([ServedSpan(RAM.start, PAGE_SIZE, shared.hva, file)])
            run = new("struct kvm_run *", {"exit_reason": ExitReason.HYPERCALL})
            run.u.hypercall.nr = KVM_HC_MAP_GPA_RANGE
            attributes = KVM_HC_PRIVATE if to is Side.PRIVATE else KVM_HC_SHARED
            run.u.hypercall.args = [RAM.start, 1, attributes, 0, 0, 0]
            assert not lib.pyvmm_conversions_take(conversions.raw, run)
            assert conversions.drain() == []
            assert view[0] == 7
            assert file.resident(0, PAGE_SIZE) == PAGE_SIZE
