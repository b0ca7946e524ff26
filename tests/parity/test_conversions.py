# SPDX-License-Identifier: MIT
"""private_mem_conversions_test: what each side sees before, during and after a conversion.

The guest fills its data with patterns and asks for conversions by hypercall; the host converts, in
each of the ways that there are (`Via`), and looks at the shared side. On each range: shared,
private, shared again.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from pyvmm.hosts.kvm.system import System

from .scripted_guest import PAGE, Script
from .two_sided import DATA, MIB, ROOM, SPAN, Ask, TwoSided, Via, two_sided

pytestmark = [pytest.mark.kvm, pytest.mark.slow]

KERNEL_RANGES = (
    (0, PAGE),
    (0, 2 * MIB),
    (PAGE, PAGE),
    (PAGE, 2 * MIB),
    (2 * MIB, PAGE),
)
"""Offset and size: a page, a large page, and both where they are not expected to be."""
FEW_RANGES = (KERNEL_RANGES[0], KERNEL_RANGES[3])
WITH_HOLES = (3 * PAGE, 8 * PAGE)
"""A range of which single pages go back to shared. The kernel's test has the loop for that, but
leaves it out for every range that has more than one page."""

SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2)]
"""vCPUs, and memslots over the one guest_memfd. One vCPU and two memslots: a range in both."""


def ways(option: str, usual: bool, shapes: Sequence[tuple[int, int]]) -> pytest.MarkDecorator:
    """Bare ioctls with all shapes and `option` off and on; the others with `shapes` and `usual`."""
    all_shapes = [(shape, option) for option in (False, True) for shape in SHAPES]
    return pytest.mark.parametrize(
        ("via", "vcpus", "memslots", option),
        [
            pytest.param(via, *shape, on, id=f"{via.name.lower()}-{shape[0]}-{shape[1]}-{on}")
            for via in Via
            for shape, on in (all_shapes if via is Via.IOCTLS else [(s, usual) for s in shapes])
        ],
    )


def add_conversions(
    script: Script,
    memory: TwoSided,
    base: int,
    *,
    through_file: bool,
    ranges: Sequence[tuple[int, int]] = (*KERNEL_RANGES, WITH_HOLES),
) -> None:
    """Every range of `base`, there and back."""
    how = Ask.ATTRIBUTES | (Ask.FILE if through_file else Ask(0))
    found, background = 0xAA, 0xCC
    # Shared to begin with.
    script.fill(base, SPAN, found)
    script.check(base, SPAN, found)
    script.host(lambda: memory.look(base, SPAN, found, then=background))
    script.check(base, SPAN, background)
    for offset, size in ranges:
        add_there_and_back(script, memory, base, (base + offset, size), how)
        script.fill(base + offset, size, background)
        # Each range begins with nothing in the file.
        memory.add_clearing(script, base, SPAN)


def add_there_and_back(
    script: Script, memory: TwoSided, base: int, span: tuple[int, int], how: Ask
) -> None:
    gpa, size = span
    before, private, after, last, background = 0x11, 0x22, 0x33, 0x44, 0xCC
    script.fill(gpa, size, before)
    memory.add_conversion(script, gpa, size, how | Ask.PRIVATE)
    if size <= WITH_HOLES[1]:
        script.fill(gpa, size, private)
        script.host(lambda: memory.look_behind(gpa, size, before))
        script.check(gpa, size, private)
        script.check(base, gpa - base, background)
        script.check(gpa + size, base + SPAN - gpa - size, background)
        add_holes(script, memory, span, how)
    else:
        script.fill(gpa, PAGE, private)
    memory.add_conversion(script, gpa, size, how | Ask.SHARED)
    # What was private is gone or stale: only what is written from now on counts.
    script.fill(gpa, size, after)
    script.host(lambda: memory.look(gpa, size, after, then=last))
    script.check(gpa, size, last)


def add_holes(script: Script, memory: TwoSided, span: tuple[int, int], how: Ask) -> None:
    """Every other page of a private range goes back to shared; the ones between stay."""
    before, private, after = 0x11, 0x22, 0x33

    def page(at: int, *, to_shared: bool) -> None:
        if to_shared:
            memory.add_conversion(script, at, PAGE, how | Ask.SHARED)
            script.host(
                lambda: memory.look(at, PAGE, memory.left(before, private, how), then=after)
            )
            script.check(at, PAGE, after)
        else:
            script.host(lambda: memory.look_behind(at, PAGE, before))
            script.check(at, PAGE, private)

    for number in range(span[1] // PAGE):
        page(span[0] + number * PAGE, to_shared=bool(number & 1))


def add_punched_holes(script: Script, memory: TwoSided, base: int, *, precise: bool) -> None:
    """Private memory that is freed without a conversion reads as zeroes from then on."""
    pattern = 0xCC
    memory.add_conversion(script, base, SPAN, Ask.ATTRIBUTES | Ask.PRIVATE)
    for offset, size in KERNEL_RANGES:
        gpa = base + offset
        memory.add_conversion(script, base, SPAN, Ask.FILE | Ask.SHARED)
        filled = (gpa, size) if precise else (base, SPAN)
        script.fill(*filled, pattern)
        script.check(*filled, pattern)
        memory.add_conversion(script, gpa, size, Ask.FILE | Ask.SHARED)
        script.check(gpa, size, 0)
        if not precise:
            script.check(base, gpa - base, pattern)
            script.check(gpa + size, base + SPAN - gpa - size, pattern)


@ways("through_file", usual=False, shapes=[(1, 2), (2, 2)])
def test_there_and_back(
    private_host: System,
    interpreter: bytes,
    via: Via,
    vcpus: int,
    memslots: int,
    through_file: bool,
) -> None:
    with two_sided(private_host, interpreter, via, vcpus, memslots) as memory:
        scripts = [Script() for _ in range(vcpus)]
        for index, script in enumerate(scripts):
            add_conversions(script, memory, DATA + index * ROOM, through_file=through_file)
        memory.run(scripts)


def test_four_vcpus_each_in_a_memslot_of_its_own(private_host: System, interpreter: bytes) -> None:
    """All convert by themselves at once. More vCPUs than processors: two ranges are enough."""
    vcpus = memslots = 4
    with two_sided(private_host, interpreter, Via.RUN_LOOP, vcpus, memslots) as memory:
        scripts = [Script() for _ in range(vcpus)]
        for index, script in enumerate(scripts):
            base = DATA + index * ROOM
            add_conversions(script, memory, base, through_file=False, ranges=FEW_RANGES)
        memory.run(scripts)


@ways("precise", usual=False, shapes=[(2, 2)])
def test_punched_holes_read_as_zeroes(
    private_host: System, interpreter: bytes, via: Via, vcpus: int, memslots: int, precise: bool
) -> None:
    with two_sided(private_host, interpreter, via, vcpus, memslots) as memory:
        scripts = [Script() for _ in range(vcpus)]
        for index, script in enumerate(scripts):
            add_punched_holes(script, memory, DATA + index * ROOM, precise=precise)
        memory.run(scripts)


@pytest.mark.parametrize(
    ("via", "vcpus", "memslots"),
    [(Via.IOCTLS, 1, 1), (Via.IOCTLS, 2, 2), (Via.GUEST_MEMORY, 1, 2), (Via.RUN_LOOP, 1, 2)],
)
def test_all_in_one_run_and_the_file_outlives_the_vm(
    private_host: System, interpreter: bytes, via: Via, vcpus: int, memslots: int
) -> None:
    """Each vCPU does everything on the same memory; then the VM's fd and its vCPUs are closed."""
    with two_sided(private_host, interpreter, via, vcpus, memslots) as memory:
        scripts = [Script() for _ in range(vcpus)]
        for index, script in enumerate(scripts):
            base = DATA + index * ROOM
            for through_file in (False, True):
                add_conversions(script, memory, base, through_file=through_file)
            for precise in (False, True):
                add_punched_holes(script, memory, base, precise=precise)
        memory.run(scripts)
        memory.guest.vm.close()
        memory.file.punch_hole(0, memory.file.size)
        memory.file.allocate(0, memory.file.size)
