# SPDX-License-Identifier: MIT
"""Page states of which the host knows, too, what is shared: leases are given by that."""

from __future__ import annotations

from pyvmm.hosts.held_ranges import HeldRanges
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState, PageStates


class MirroredStates(PageStates):
    """`PageStates` whose every `set` is told to the host. Under the lock of conversions."""

    def __init__(self, held: HeldRanges) -> None:
        super().__init__()
        self._held = held

    def set(self, range_: GpaRange, state: PageState) -> None:
        """Note a conversion here and with the host."""
        super().set(range_, state)
        self._held.note(range_.start, range_.size, shared=state is PageState.SHARED)

    def catch_up(self, range_: GpaRange, state: PageState) -> None:
        """Note what the host knows already: its own conversion, or another way not to be shared."""
        super().set(range_, state)
