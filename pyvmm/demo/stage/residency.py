# SPDX-License-Identifier: MIT
"""Pages of a bare stage's memory that the host holds, where the host tells."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyvmm.demo.stage.things import SlotOnStage, Things
from pyvmm.demo.telling.outcomes import Resident
from pyvmm.errors import HostLacksError
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE
from pyvmm.rules.memslots import is_guest_memfd_only

Count = Callable[[int, int], int]
"""Bytes that are resident of [offset, offset + size)."""


def resident(things: Things) -> Iterator[Resident]:
    """Runs of pages that are resident, ascending by VM, side and address."""
    for number, vm in sorted(things.vms.items()):
        found: dict[Side, list[GpaRange]] = {Side.SHARED: [], Side.PRIVATE: []}
        for slot in sorted(vm.slots.values(), key=lambda one: one.act.gpa):
            for side, count, start in _sources(things, slot):
                gpa = slot.act.gpa - start
                for low, high in _runs(count, start, start + slot.act.size):
                    found[side].append(GpaRange(gpa + low, gpa + high))
            for side, low, high in _in_place(things, slot):
                gpa = slot.act.gpa - slot.act.file_offset
                found[side].append(GpaRange(gpa + low, gpa + high))
        for side in (Side.PRIVATE, Side.SHARED):
            yield from (Resident(number, side, range_) for range_ in sorted(found[side]))


def _sources(things: Things, slot: SlotOnStage) -> Iterator[tuple[Side, Count, int]]:
    """Memory of a slot: the side, what counts it, and the offset of the slot's first byte."""
    if slot.side is not None:
        yield Side.SHARED, slot.side.resident, 0
    file = slot.file
    if file is None or not things.lives(file) or file.sides is not None:
        return
    side = Side.SHARED if is_guest_memfd_only(file.flags) else Side.PRIVATE
    if file.is_open:
        yield side, file.file.resident, slot.act.file_offset
        return
    for one in things.mappings.values():
        if things.files.get(one.file) is file:
            yield side, one.mapping.resident, slot.act.file_offset
            return


def _in_place(things: Things, slot: SlotOnStage) -> Iterator[tuple[Side, int, int]]:
    """Of a file that keeps the sides: (side, start, end) of what is resident, file offsets."""
    file = slot.file
    if file is None or file.sides is None or not things.lives(file) or not file.is_open:
        return
    start = slot.act.file_offset
    for run in file.sides.runs(GpaRange(start, start + slot.act.size)):
        side = Side.PRIVATE if run.state is PageState.PRIVATE else Side.SHARED
        for low, high in _runs(file.file.resident, run.range.start, run.range.end):
            yield side, low, high


def _runs(count: Count, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of resident pages in [start, end), joined: found by halving."""
    run: tuple[int, int] | None = None
    for low, high in _parts(count, start, end):
        if run is not None and run[1] == low:
            run = run[0], high
            continue
        if run is not None:
            yield run
        run = low, high
    if run is not None:
        yield run


def _parts(count: Count, start: int, end: int) -> Iterator[tuple[int, int]]:
    try:
        bytes_there = count(start, end - start)
    except HostLacksError:
        return
    if bytes_there == end - start:
        yield start, end
    elif bytes_there and end - start > PAGE_SIZE:
        middle = start + (end - start) // PAGE_SIZE // 2 * PAGE_SIZE
        yield from _parts(count, start, middle)
        yield from _parts(count, middle, end)
