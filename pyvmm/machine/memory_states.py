# SPDX-License-Identifier: MIT
"""The states of a guest's pages, and the memory of the host that they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pyvmm.machine.tracked_memory import TrackedMemory
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState

if TYPE_CHECKING:
    from pyvmm.machine.memory_sides import MemorySides
    from pyvmm.memory.copies import CopyRun
    from pyvmm.memory.regions import MemoryRegion
    from pyvmm.memory.residency import Residency

_PIECE = 32 << 20
"""Bytes whose pages are counted at a time: about a millisecond."""
MOST_COUNTS = 1024
"""Counts within a piece by which copies are found: some milliseconds where pages are scattered."""


class MemoryStates:
    """States of the pages of a guest's memory, as of each call. Any thread."""

    def __init__(self, tracked: TrackedMemory) -> None:
        self._tracked = tracked

    def runs(self, within: GpaRange | None = None) -> tuple[PageRun, ...]:
        """Every page's state now, as ascending runs; cut to `within`, of whatever alignment."""
        with self._tracked.exclusive():
            found = self._tracked.states.runs(within)
        return tuple(found)

    def at(self, gpa: int) -> PageState | None:
        """The state of the page that holds `gpa`; None where there is no memory."""
        with self._tracked.exclusive():
            return self._tracked.states.state_at(gpa)

    def bytes_in(self, state: PageState) -> int:
        """Count the bytes that are in `state` now."""
        return sum(run.range.size for run in self.runs() if run.state is state)

    def page_map(self, mark: int | None = None) -> Iterator[str]:
        """The page states as lines to print; `mark` is a GPA to point at."""
        from pyvmm.memory.page_map import page_map  # Who prints it loads it.

        return page_map(self.runs(), mark)

    def residency(self) -> tuple[Residency, ...]:
        """Return each region's bytes in either state, and those that the kernel holds of each side.

        It is asked piece by piece, between which others have the lock: a figure is the sum of what
        was true of each piece. Raises `HostLacksError` where the kernel cannot tell.
        """
        from pyvmm.memory.residency import Residency  # Most machines are never asked.

        with self._tracked.exclusive():
            found: list[Residency] = []
            for sides in tuple(self._tracked.sides.values()):
                counted = self._counted(sides)
                if counted is not None:
                    found.append(Residency(sides.region.what, *counted))
            return tuple(found)

    def _resident_in_place(self, sides: MemorySides, piece: GpaRange) -> tuple[int, int]:
        """Bytes resident of pages in either state: what is converted stays where it is."""
        resident = dict.fromkeys(PageState, 0)
        for run in self._tracked.states.runs(piece):
            resident[run.state] += sides.resident(run.range)[0]
        return resident[PageState.SHARED], resident[PageState.PRIVATE]

    def copies(self, most: int = MOST_COUNTS) -> tuple[tuple[MemoryRegion, Sequence[CopyRun]], ...]:
        """Find, region by region, which pages the host keeps on which side; see `copy_runs`.

        For each piece of 32 MiB it counts `most` times at the most, and others have the lock
        between two of them: each piece is as it was at one moment. Raises `HostLacksError` where
        the kernel cannot tell.
        """
        from pyvmm.memory.copies import joined  # Most machines are never asked.

        with self._tracked.exclusive():
            found: list[tuple[MemoryRegion, Sequence[CopyRun]]] = []
            for sides in tuple(self._tracked.sides.values()):
                region = sides.region
                runs: list[CopyRun] = []
                for start in range(region.range.start, region.range.end, _PIECE):
                    if self._tracked.sides.get(region.slot) is not sides:
                        break
                    piece = GpaRange(start, min(start + _PIECE, region.range.end))
                    runs.extend(self._copies_in(sides, piece, most))
                    self._tracked.give_way()
                else:
                    found.append((region, tuple(joined(runs))))
            return tuple(found)

    def _copies_in(self, sides: MemorySides, piece: GpaRange, most: int) -> Iterator[CopyRun]:
        from pyvmm.memory.copies import copy_runs

        if not sides.region.in_place:
            yield from copy_runs(piece, sides.resident, most)
            return
        # A page has one memory, which is the copy that its state says.
        for run in self._tracked.states.runs(piece):
            private = run.state is PageState.PRIVATE

            def resident(part: GpaRange, private: bool = private) -> tuple[int, int]:
                found = sides.resident(part)[0]
                return (0, found) if private else (found, 0)

            yield from copy_runs(run.range, resident, most)

    def _counted(self, sides: MemorySides) -> tuple[int, int, int, int] | None:
        """The figures of `Residency`, in order; None where the region is removed meanwhile."""
        states = self._tracked.states
        region = sides.region
        total = [0, 0, 0, 0]
        for start in range(region.range.start, region.range.end, _PIECE):
            if self._tracked.sides.get(region.slot) is not sides:
                return None
            piece = GpaRange(start, min(start + _PIECE, region.range.end))
            shared, private = (
                self._resident_in_place(sides, piece) if region.in_place else sides.resident(piece)
            )
            counts = (
                states.bytes_in(PageState.SHARED, piece),
                shared,
                states.bytes_in(PageState.PRIVATE, piece),
                private,
            )
            total = [old + new for old, new in zip(total, counts, strict=True)]
            self._tracked.give_way()
        return total[0], total[1], total[2], total[3]
