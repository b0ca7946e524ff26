# SPDX-License-Identifier: MIT
"""The states of a guest's pages for people: a bar, and a line per run. Plain ASCII."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from pyvmm.memory.layout import GIB, MIB
from pyvmm.memory.page_states import PageRun, PageState

CELLS = 64
"""The width of the bar, in characters."""
MOST_RUNS = 40
"""The most runs that get a line."""

_LETTERS = {PageState.PRIVATE: "P", PageState.SHARED: "s", PageState.WITHHELD: "w"}
_SEVERAL = "+"
_NO_MEMORY = "."
_LEGEND = "P private, s shared, w withheld, + several, . no memory"
_UNITS = ((1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (1 << 10, "KiB"))


def page_map(runs: Iterable[PageRun], mark: int | None = None) -> Iterator[str]:
    """Lines of at most 100 columns: a bar of everything, then the runs.

    `runs` is ascending. At most `MOST_RUNS` runs are listed, those around GPA `mark` if there is
    one, and a line says how many are left out. Addresses are GPAs, the last one inclusive.
    """
    found = tuple(runs)
    if not found:
        yield "no memory"
        return
    yield from _bar(found, mark)
    # Where `mark` is, or which run it comes before when there is no memory at it.
    marked = len(found) if mark is None else bisect_right([run.range.start for run in found], mark)
    middle = 0 if mark is None else marked
    first = max(0, min(middle - MOST_RUNS // 2, len(found) - MOST_RUNS))
    last = min(len(found), first + MOST_RUNS)
    if first:
        yield f"... {first} {_runs(first)} before these"
    for index in range(first, last):
        run = found[index]
        # `marked` counts the runs that begin at the mark or below it: only the last may hold it.
        if mark is not None and index == marked and not _holds(found, marked - 1, mark):
            yield _nothing_at(mark)
        here = mark is not None and index == marked - 1 and _holds(found, index, mark)
        yield f"{_line(run)}  <- {mark:#x}" if here else _line(run)
    if mark is not None and marked == len(found) and not _holds(found, marked - 1, mark):
        yield _nothing_at(mark)
    if last < len(found):
        yield f"... {len(found) - last} {_runs(len(found) - last)} after these"


def _holds(runs: Sequence[PageRun], index: int, gpa: int) -> bool:
    return index >= 0 and runs[index].range.contains(gpa, 1)


def _nothing_at(gpa: int) -> str:
    return f"no memory  <- {gpa:#x}"


def _runs(count: int) -> str:
    return "more run" if count == 1 else "more runs"


def _line(run: PageRun) -> str:
    start, end = run.range.start, run.range.end
    return f"{start:010x}-{end - 1:010x}  {_size(run.range.size):>12}  {run.state.value}"


def _size(size: int) -> str:
    """Exact, in the largest unit that divides it."""
    for unit, name in _UNITS:
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} bytes"


def _bar(runs: Sequence[PageRun], mark: int | None) -> Iterator[str]:
    """Every cell stands for the same number of bytes; memory shows, however little it is."""
    low, high = runs[0].range.start, runs[-1].range.end
    span = high - low
    cells = [_NO_MEMORY] * CELLS
    for run in runs:
        letter = _LETTERS[run.state]
        first = (run.range.start - low) * CELLS // span
        last = (run.range.end - 1 - low) * CELLS // span
        for cell in range(first, last + 1):
            cells[cell] = letter if cells[cell] in (_NO_MEMORY, letter) else _SEVERAL
    yield f"[{''.join(cells)}]"
    if mark is not None and low <= mark < high:
        yield " " * (1 + (mark - low) * CELLS // span) + "^"
    yield f"{_LEGEND}; all is {_size(span)}"
