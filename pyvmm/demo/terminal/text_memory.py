# SPDX-License-Identifier: MIT
"""Guest memory as text: a bar of states, one of residency, a line for each run, what changed.

Letters say it all. The bar is not to scale: every run has at least one cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyvmm.demo.telling.outcomes import Observed
from pyvmm.demo.terminal.lines import Line, Tone, wrapped
from pyvmm.hosts.call_record import in_units
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.rules.abi import PAGE_SIZE

CELLS = 64
"""Most cells of a bar."""
MOST_RUNS = 16
"""Most runs that get a line; those that have changed come first."""
_LETTERS = {PageState.PRIVATE: "P", PageState.SHARED: "s", PageState.WITHHELD: "w", None: "."}
_WORDS = {"P": "private", "s": "shared", "w": "withheld", ".": "no memory", "+": "several"}
_RESIDENT = {
    (False, False): ("-", "not resident"),
    (True, False): ("f", "in the file"),
    (False, True): ("h", "in the host's mapping"),
    (True, True): ("B", "in both"),
}
"""By (private side resident, shared side resident)."""
_SIDES = (Side.PRIVATE, Side.SHARED)


@dataclass(frozen=True, slots=True)
class _Row:
    """A run, how much of it is resident on either side, and what it was before."""

    run: PageRun
    private: int
    shared: int
    mark: str
    was: str


def memory(before: Observed, after: Observed, width: int) -> Iterator[Line]:
    """The memory of each VM that has some or had some."""
    vms = sorted({number for number, _ in (*after.memory, *before.memory)})
    if not vms:
        yield Line("guest memory: none", Tone.FAINT)
    for vm in vms:
        yield from _of_vm(vm, before, after, width)


def has_changed(before: Observed, after: Observed) -> bool:
    """Tell whether states or residency are others."""
    return (before.memory, before.resident) != (after.memory, after.resident)


def _of_vm(vm: int, before: Observed, after: Observed, width: int) -> Iterator[Line]:
    runs, old = _runs(vm, after), _runs(vm, before)
    told = bool(after.resident or before.resident)
    rows = [_row(vm, run, old, before, after) for run in runs]
    gone = _gone(old, runs)
    changed = any(row.mark.strip() for row in rows) or bool(gone)
    yield from wrapped(
        f"guest memory of VM {vm}{'  * changed' if changed else ''}",
        width,
        Tone.CHANGED if changed else Tone.HEAD,
    )
    if runs:
        yield from _bars(vm, runs, after, told, width)
    shown = rows
    if len(rows) > MOST_RUNS:
        shown = sorted(rows, key=lambda row: not row.mark.strip())[:MOST_RUNS]
        shown.sort(key=lambda row: row.run.range.start)
    for row in shown:
        yield from _row_lines(row, told, width)
    if len(rows) > len(shown):
        yield from wrapped(f"... {len(rows) - len(shown)} more runs", width, Tone.FAINT, first="  ")
    for run in gone:
        said = f"- {_range(run.range)}  {_size(run.range.size)}  gone (was {run.state.value})"
        yield from wrapped(said, width, Tone.CHANGED, rest="    ")


def _runs(vm: int, state: Observed) -> list[PageRun]:
    return [run for number, run in state.memory if number == vm]


def _row(vm: int, run: PageRun, old: Sequence[PageRun], before: Observed, after: Observed) -> _Row:
    inside = [one for one in old if one.range.overlaps(run.range)]
    was = sorted({one.state.value for one in inside if one.state is not run.state})
    covered = sum(_cut(one.range, run.range) for one in inside)
    private, shared = (_resident(vm, side, run.range, after) for side in _SIDES)
    same = (_resident(vm, side, run.range, before) for side in _SIDES)
    if not covered:
        return _Row(run, private, shared, "+", "new")
    if was:
        return _Row(run, private, shared, "*", f"was {' and '.join(was)}")
    if covered < run.range.size:
        return _Row(run, private, shared, "*", "has grown")
    mark = " " if (private, shared) == tuple(same) else "*"
    return _Row(run, private, shared, mark, "")


def _gone(old: Sequence[PageRun], runs: Sequence[PageRun]) -> list[PageRun]:
    """Memory that was there and is no more; what is left of a run that was cut is not told."""
    return [one for one in old if not any(one.range.overlaps(run.range) for run in runs)]


def _cut(one: GpaRange, other: GpaRange) -> int:
    return max(0, min(one.end, other.end) - max(one.start, other.start))


def _resident(vm: int, side: Side, within: GpaRange, state: Observed) -> int:
    return sum(
        _cut(one.range, within) for one in state.resident if one.vm == vm and one.side is side
    )


def _size(size: int) -> str:
    return in_units(size) or f"{size} bytes"


def _range(range_: GpaRange) -> str:
    return f"{range_.start:#x}-{range_.end - 1:#x}"


def _row_lines(row: _Row, told: bool, width: int) -> Iterator[Line]:
    said = [_range(row.run.range), _size(row.run.range.size), row.run.state.value]
    if told:
        said.append(_resident_words(row))
    text = f"{row.mark} {'  '.join(said)}{f'  ({row.was})' if row.was else ''}"
    tone = Tone.CHANGED if row.mark.strip() else Tone.PLAIN
    yield from wrapped(text, width, tone, first="" if row.mark.strip() else "  ", rest="    ")


def _resident_words(row: _Row) -> str:
    amounts = ((row.private, "in the file"), (row.shared, "in the host's mapping"))
    said = [f"{_size(size)} {where}" for size, where in amounts if size]
    return f"resident: {', '.join(said)}" if said else "not resident"


def _bars(
    vm: int, runs: Sequence[PageRun], state: Observed, told: bool, width: int
) -> Iterator[Line]:
    """Bars of states and, where that is known, of residency, and their letters."""
    cells = min(CELLS, max(8, width - 4))
    parts = _divided(runs, cells)
    letters, residents = [], []
    for run_range, run_state, count in parts:
        size = run_range.size
        for cell in range(count):
            start = run_range.start + size * cell // count
            end = max(start + 1, run_range.start + size * (cell + 1) // count)
            letters.append(_LETTERS[run_state])
            found = [_resident(vm, side, GpaRange(start, end), state) > 0 for side in _SIDES]
            residents.append(" " if run_state is None else _RESIDENT[found[0], found[1]][0])
    yield Line(f" [{''.join(letters)}]")
    if told:
        yield Line(f" [{''.join(residents)}]")
    legend = [f"{one} {_WORDS[one]}" for one in dict.fromkeys(letters)]
    if told:
        meant = dict(_RESIDENT.values())
        legend += [f"{one} {meant[one]}" for one in dict.fromkeys(residents) if one in meant]
    yield from wrapped(
        f"{', '.join(legend)}; not to scale", width, Tone.FAINT, first="  ", rest="  "
    )


def _divided(runs: Sequence[PageRun], cells: int) -> list[tuple[GpaRange, PageState | None, int]]:
    """Runs and the gaps between them, each with its number of cells, at most `cells` in all."""
    parts: list[tuple[GpaRange, PageState | None]] = []
    end = runs[0].range.start
    for run in runs:
        if run.range.start > end:
            parts.append((GpaRange(end, run.range.start), None))
        parts.append((run.range, run.state))
        end = run.range.end
    parts = parts[:cells]
    # By the logarithm: what is small is what the steps are about. Gaps have one cell.
    weights = [(part.size // PAGE_SIZE).bit_length() if state else 0 for part, state in parts]
    spare = cells - len(parts)
    return [
        (part, state, 1 + spare * weight // max(1, sum(weights)))
        for (part, state), weight in zip(parts, weights, strict=True)
    ]
