# SPDX-License-Identifier: MIT
"""The states of a guest's pages, and the memory of the host that they take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyvmm.machine.tracked_memory import TrackedMemory
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState

if TYPE_CHECKING:
    from pyvmm.memory.residency import Residency


class MemoryStates:
    """States of the pages of a guest's memory, as of each call. Any thread."""

    def __init__(self, tracked: TrackedMemory) -> None:
        self._tracked = tracked

    def runs(self, within: GpaRange | None = None) -> tuple[PageRun, ...]:
        """Every page's state now, as ascending runs; cut to `within`, of whatever alignment."""
        with self._tracked.exclusive():
            return tuple(self._tracked.states.runs(within))

    def at(self, gpa: int) -> PageState | None:
        """The state of the page that holds `gpa`; None where there is no memory."""
        with self._tracked.exclusive():
            return self._tracked.states.state_at(gpa)

    def bytes_in(self, state: PageState) -> int:
        """Count the bytes that are in `state` now."""
        with self._tracked.exclusive():
            return self._tracked.states.bytes_in(state)

    def page_map(self, mark: int | None = None) -> Iterator[str]:
        """The page states as lines to print; `mark` is a GPA to point at."""
        from pyvmm.memory.page_map import page_map  # Who prints it loads it.

        return page_map(self.runs(), mark)

    def residency(self) -> tuple[Residency, ...]:
        """Return each region's bytes in either state, and those that the kernel holds of each side.

        Raises `HostLacksError` where the kernel cannot tell.
        """
        with self._tracked.exclusive():
            return tuple(
                sides.residency(
                    self._tracked.states.bytes_in(PageState.SHARED, sides.region.range),
                    self._tracked.states.bytes_in(PageState.PRIVATE, sides.region.range),
                )
                for sides in self._tracked.sides.values()
            )
