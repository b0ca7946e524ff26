# SPDX-License-Identifier: MIT
"""The page map of a VM as lines of text, with the memory that the kernel holds for each run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from pyvmm.hosts.call_record import in_units
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_map import page_map
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.shell.watch import WatchedSlot, WatchedVm

MOST_LINES = 16
"""The most runs of a VM that get a line."""
_BAR_AND_LEGEND = 2
CountHeld = Callable[[WatchedSlot, Side, GpaRange], "int | None"]
"""Bytes of a range, of one slot, that the kernel holds for a side; None: that cannot be told."""


def lines_of_vm(name: str, vm: WatchedVm, held: CountHeld) -> Iterator[str]:
    """A VM's bar and legend, and a line for each run, at most 79 columns wide."""
    runs = tuple(vm.runs())
    if not runs:
        yield f"{name}: no memory"
        return
    yield f"{name}:"
    yield from islice(page_map(runs), _BAR_AND_LEGEND)
    for count, line in enumerate(_runs(vm, held)):
        if count == MOST_LINES:
            yield f"... {sum(1 for _ in _runs(vm, _cannot_tell)) - MOST_LINES} more runs"
            return
        yield line


def _runs(vm: WatchedVm, held: CountHeld) -> Iterator[str]:
    for slot in vm.in_order():
        for run in vm.runs_of(slot):
            yield _line(slot, run, held)


def _cannot_tell(_slot: WatchedSlot, _side: Side, _range: GpaRange) -> int | None:
    return None


def _line(slot: WatchedSlot, run: PageRun, held: CountHeld) -> str:
    """Memory of the side that the guest reaches, and what the other one keeps, if anything."""
    start, end = run.range
    sides = slot.sides
    reached = Side.PRIVATE if run.state is PageState.PRIVATE and len(sides) > 1 else sides[0]
    told = []
    for side in sorted(sides, key=lambda side: side is not reached):
        found = held(slot, side, run.range)
        if found or (found is not None and side is reached):
            label = f" {side.value}" if len(sides) > 1 else ""
            told.append(f"{in_units(found) or found}{label}")
    kept = f"  held: {', '.join(told)}" if told else ""
    size = in_units(run.range.size) or f"{run.range.size} bytes"
    return f"{start:010x}-{end - 1:010x}  {size:>9}  {run.state.value:<8}{kept}".rstrip()
