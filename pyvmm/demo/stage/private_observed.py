# SPDX-License-Identifier: MIT
"""State of a private stage: pages, what the kernel holds of them, and what the process holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyvmm.demo.stage.private_machine import PrivateMachine
from pyvmm.demo.telling.outcomes import Observed, Resident
from pyvmm.errors import PyvmmError
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE


def observed(machine: PrivateMachine) -> Observed:
    """The state of a machine that stands still."""
    assembly = machine.inside.assembly
    regions = machine.memory.regions.sides()
    file = assembly.ram.guest_memfd
    has_file = file is not None and file.is_open
    held = ["vm 0"]
    origins = [("file 0", "vm 0"), ("vcpu 0", "vm 0")]
    if has_file:
        held.append("file 0")
    if machine.ended is None:
        held.append("vcpu 0")
    return Observed(
        held=tuple(held),
        memory=tuple((0, run) for run in machine.memory.states.runs()),
        # A file that is closed leaves its slots (virt/kvm/guest_memfd.c, kvm_gmem_release).
        bound=tuple(
            (0, 0, int(one.region.slot))
            for one in regions
            if one.region.can_be_private and has_file
        ),
        resident=tuple(_resident(regions)),
        measured=machine.measured,
        reported=machine.reported,
        ended=machine.ended,
        slots=tuple((0, int(one.region.slot)) for one in regions),
        origins=tuple(origins),
    )


def _resident(regions: tuple[MemorySides, ...]) -> Iterator[Resident]:
    for number, side in enumerate((Side.SHARED, Side.PRIVATE)):
        for region in regions:
            if side is Side.PRIVATE and not region.region.can_be_private:
                continue

            def count(range_: GpaRange, region: MemorySides = region, number: int = number) -> int:
                return region.resident(range_)[number]

            try:
                found = list(_runs(count, region.region.range))
            except PyvmmError:
                continue  # Its file is closed: nobody can ask the kernel any more.
            yield from (Resident(0, side, run) for run in _joined(found))


def _runs(count: Callable[[GpaRange], int], range_: GpaRange) -> Iterator[GpaRange]:
    """Find the pages that are there, by halves: most of a guest's memory is not, or all of it."""
    there = count(range_)
    if there >= range_.size:
        yield range_
    elif there:
        middle = range_.start + range_.size // 2 // PAGE_SIZE * PAGE_SIZE
        yield from _runs(count, GpaRange(range_.start, middle))
        yield from _runs(count, GpaRange(middle, range_.end))


def _joined(found: list[GpaRange]) -> Iterator[GpaRange]:
    whole: GpaRange | None = None
    for one in found:
        if whole is not None and whole.end == one.start:
            whole = GpaRange(whole.start, one.end)
            continue
        if whole is not None:
            yield whole
        whole = one
    if whole is not None:
        yield whole
