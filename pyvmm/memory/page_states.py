# SPDX-License-Identifier: MIT
"""States of pages (private, shared), as runs of equal state."""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from pyvmm.errors import InternalError
from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE


class PageState(enum.Enum):
    """State of a page: the place where the guest's accesses to it go."""

    SHARED = "shared"
    """To the host's mapping."""
    PRIVATE = "private"
    """To the guest_memfd; the host has no view of it."""
    WITHHELD = "withheld"
    """Nowhere: KVM's attribute says private and there is no private side, so that every access is
    KVM_EXIT_MEMORY_FAULT."""


@dataclass(frozen=True, slots=True)
class PageRun:
    """Adjacent pages in one state: `range` in bytes of GPA."""

    range: GpaRange
    state: PageState


class PageStates:
    """The state of every page of a VM's memory: no locks, the owner has one.

    Adjacent pages in the same state are one run, whatever regions they are in. With n runs, each
    operation costs O(log n + k) for the k runs that it meets, and no time per page.
    """

    def __init__(self) -> None:
        # From _starts[i] up to _starts[i + 1] pages are in _states[i]; None is no memory, and
        # neighbours differ. The first entry is below every GPA, the last has no end: both are None.
        self._starts: list[int] = [-1]
        self._states: list[PageState | None] = [None]

    def add(self, range_: GpaRange, state: PageState) -> None:
        """There is memory at `range_` from now on. Raises `InternalError` where there is some."""
        self._check(range_, "add")
        if any(found is not None for found in self._found(range_)):
            raise _impossible("add", range_, "there is memory already")
        self._assign(range_.start, range_.end, state)

    def remove(self, range_: GpaRange) -> None:
        """There is no memory at `range_` any more. Raises `InternalError` where there is none."""
        self._check(range_, "remove")
        if None in self._found(range_):
            raise _impossible("remove", range_, "not all of it is memory")
        self._assign(range_.start, range_.end, None)

    def set(self, range_: GpaRange, state: PageState) -> None:
        """Note a conversion. Raises `InternalError` unless all of `range_` is memory."""
        self._check(range_, "set")
        found = self._found(range_)
        if None in found:
            raise _impossible("set", range_, "not all of it is memory")
        if len(found) > 1 or found[0] is not state:
            self._assign(range_.start, range_.end, state)

    def state_at(self, gpa: int) -> PageState | None:
        """The state of the page that holds the byte at `gpa`; None where there is no memory."""
        # Below -1 the index is that of the last entry, which is None too.
        return self._states[bisect_right(self._starts, gpa) - 1]

    def runs(self, within: GpaRange | None = None) -> Iterator[PageRun]:
        """Ascending runs, cut to `within`; as of the call, whatever is changed after it."""
        starts, states = self._starts, self._states
        if within is None:
            first, last, low, high = 0, len(starts) - 1, 0, starts[-1]
        else:
            low, high = max(within.start, 0), min(within.end, starts[-1])
            if low >= high:
                return iter(())
            first, last = bisect_right(starts, low) - 1, bisect_left(starts, high)
        return _runs(starts[first : last + 1], states[first:last], low, high)

    def bytes_in(self, state: PageState, within: GpaRange | None = None) -> int:
        """Count the bytes that are in `state`, or are in `state` and in `within`."""
        return sum(run.range.size for run in self.runs(within) if run.state is state)

    def covers(self, range_: GpaRange) -> bool:
        """Tell whether `range_` is not empty and all of it is memory."""
        return range_.start < range_.end and None not in self._found(range_)

    def snapshot(self) -> tuple[PageRun, ...]:
        """All runs, ascending."""
        return tuple(self.runs())

    def _found(self, range_: GpaRange) -> list[PageState | None]:
        """The states met in `range_` (not empty), in order."""
        starts = self._starts
        first = max(bisect_right(starts, range_.start) - 1, 0)
        return self._states[first : bisect_left(starts, range_.end)] or [None]

    def _assign(self, start: int, end: int, state: PageState | None) -> None:
        starts, states = self._starts, self._states
        # Entries [first, last) begin within [start, end]: they go, and up to two come instead.
        first, last = bisect_left(starts, start), bisect_right(starts, end)
        after = states[last - 1]
        new_starts: list[int] = []
        new_states: list[PageState | None] = []
        if states[first - 1] is not state:
            new_starts.append(start)
            new_states.append(state)
        if after is not state:
            new_starts.append(end)
            new_states.append(after)
        starts[first:last] = new_starts
        states[first:last] = new_states

    def _check(self, range_: GpaRange, verb: str) -> None:
        start, end = range_.start, range_.end
        if not 0 <= start < end or (start | end) & (PAGE_SIZE - 1):
            raise _impossible(verb, range_, "not a range of whole pages")


def _runs(
    starts: list[int], states: list[PageState | None], low: int, high: int
) -> Iterator[PageRun]:
    """Make runs of what was copied, which costs so much less: whoever has a lock gives it back."""
    for index, state in enumerate(states):
        if state is not None:
            yield PageRun(GpaRange(max(starts[index], low), min(starts[index + 1], high)), state)


def _impossible(verb: str, range_: GpaRange, cause: str) -> InternalError:
    return InternalError(f"{verb} page states of [{range_.start:#x}, {range_.end:#x})", cause)
