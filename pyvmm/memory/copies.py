# SPDX-License-Identifier: MIT
"""Copies that the host keeps of a guest's pages: none, the shared one, the private one, or both.

A page that is resident on both sides takes the host's memory twice. That is how machines whose
guests have private memory come to need double: the shared side of a page that is private by now was
not given back, or has been touched again (by a device that has all memory mapped, for one).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE

Count = Callable[[GpaRange], tuple[int, int]]
"""Count the bytes of a range, of whole pages, that are resident: shared side, private side."""


@dataclass(frozen=True, slots=True)
class CopyRun:
    """A range of whole pages, in GPAs, and the bytes of it that are resident on either side."""

    range: GpaRange
    shared: int
    private: int

    @property
    def is_exact(self) -> bool:
        """Tell whether it is known of every page: each side has all of them, or none."""
        return all(side in (0, self.range.size) for side in (self.shared, self.private))

    @property
    def twice(self) -> int:
        """Bytes of the pages resident on both sides: where it is not exact, at least so many."""
        return max(0, self.shared + self.private - self.range.size)

    @property
    def holes(self) -> int:
        """Bytes of the pages resident on neither: where it is not exact, at least so many."""
        return self.range.size - (self.shared + self.private - self.twice)


def copy_runs(range_: GpaRange, count: Count, most: int) -> tuple[CopyRun, ...]:
    """Find what is resident of `range_`, as ascending runs of whole pages.

    What is neither all there nor not there at all is halved, the longest part first, until `most`
    counts have been made: from then on runs may be inexact.
    """
    done: list[CopyRun] = []
    pending: list[tuple[int, int, CopyRun]] = []

    def look(start: int, end: int) -> None:
        run = CopyRun(GpaRange(start, end), *count(GpaRange(start, end)))
        if run.is_exact:
            done.append(run)
        else:
            heapq.heappush(pending, (start - end, start, run))

    look(range_.start, range_.end)
    counts = 1
    while pending and counts + 2 <= most:
        run = heapq.heappop(pending)[2].range
        middle = run.start + run.size // 2 // PAGE_SIZE * PAGE_SIZE
        look(run.start, middle)
        look(middle, run.end)
        counts += 2
    done.extend(run for _, _, run in pending)
    return tuple(joined(sorted(done, key=lambda run: run.range.start)))


def joined(runs: Iterable[CopyRun]) -> Iterator[CopyRun]:
    """Join adjacent ascending runs of which the same is known of every page."""
    last: CopyRun | None = None
    for run in runs:
        if last is None:
            last = run
        elif last.is_exact and run.is_exact and _kind(last) == _kind(run):
            whole = GpaRange(last.range.start, run.range.end)
            last = CopyRun(whole, last.shared + run.shared, last.private + run.private)
        else:
            yield last
            last = run
    if last is not None:
        yield last


def _kind(run: CopyRun) -> tuple[bool, bool]:
    return run.shared > 0, run.private > 0
