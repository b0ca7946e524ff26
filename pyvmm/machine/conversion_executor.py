# SPDX-License-Identifier: MIT
"""Plans of conversions carried out on a VM: each step, what is noted of it, and its way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyvmm.hosts.interface import Vm
from pyvmm.machine.attributes import set_attributes
from pyvmm.machine.memory_listener import MemoryListener
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState, PageStates
from pyvmm.memory.regions import RegionTable

if TYPE_CHECKING:
    from pyvmm.memory.conversion import ConversionPlan


class ConversionExecutor:
    """Sets attributes, gives pages back, tells listeners, and keeps `states` what the kernel has.

    Whoever calls holds the lock of all conversions. `sides` are those of the regions that plans are
    made for, by slot, a live view; `regions` gives the table that plans are made with. `is_over` is
    asked between the parts of a long conversion: a run that has ended stops there. Listeners that
    were told that a range leaves, and find out that it did not since a later step failed, are told
    that it has joined.
    """

    def __init__(
        self,
        vm: Vm,
        states: PageStates,
        sides: Mapping[int, MemorySides],
        regions: Callable[[], RegionTable],
        is_over: Callable[[], bool],
    ) -> None:
        self._vm = vm
        self._states = states
        self._sides = sides
        self._regions = regions
        self._is_over = is_over
        self.listeners: list[tuple[MemoryListener, tuple[GpaRange, ...]]] = []
        """Each with the ranges that it listens to."""
        self.has_set_attributes = False
        """True once PRIVATE has been set anywhere: KVM may have it where there is no memory now."""

    def execute(self, planned: ConversionPlan) -> bool:
        """Do all steps, in order; False where the run was over before the last.

        Raises `SystemCallError` when the kernel fails in the middle: the states tell how far it
        got.
        """
        from pyvmm.memory.conversion import (  # Loaded by whoever has made the plan.
            DiscardPrivate,
            DiscardShared,
            SetAttributes,
            TellJoined,
            TellLeaving,
        )

        chunk: GpaRange | None = None
        try:
            for step in planned.steps:
                match step:
                    case TellLeaving(range_):
                        if self._is_over():
                            return False
                        chunk = range_
                        self._tell_leaving(range_)
                    case SetAttributes(range_, private):
                        chunk = range_
                        self._set_attributes(range_, private=private)
                    case DiscardShared(region, range_):
                        self._sides[region.slot].discard_shared(range_)
                    case DiscardPrivate(region, range_):
                        self._sides[region.slot].discard_private(range_)
                    case TellJoined(range_):
                        chunk = None
                        self._tell_joined(range_)
                        if self._is_over():
                            return False
        except BaseException:
            if chunk is not None:
                self.tell_what_is_shared(chunk)
            raise
        return True

    @contextmanager
    def leaving(self, range_: GpaRange) -> Iterator[None]:
        """Tell listeners that `range_` leaves; where the body fails, what is shared has joined."""
        try:
            self._tell_leaving(range_)
            yield
        except BaseException:
            self.tell_what_is_shared(range_)
            raise

    def withhold_all(self, range_: GpaRange) -> tuple[PageRun, ...]:
        """Set PRIVATE over `range_`, whose memslot is about to go; the states until now."""
        before = tuple(self._states.runs(range_))
        self.has_set_attributes = True
        set_attributes(self._vm, range_, private=True)
        self._states.set(range_, PageState.WITHHELD)
        return before

    def put_back(self, before: tuple[PageRun, ...]) -> None:
        """Undo `withhold_all`, where the memslot has stayed."""
        for run in before:
            if run.state is PageState.SHARED:
                set_attributes(self._vm, run.range, private=False)
            self._states.set(run.range, run.state)

    def clear_attributes(self, range_: GpaRange) -> None:
        """Take PRIVATE off all of `range_`, whatever is or was there."""
        set_attributes(self._vm, range_, private=False)

    def tell_what_is_shared(self, range_: GpaRange) -> None:
        """Tell listeners of the shared pages of `range_`."""
        for run in self._states.runs(range_):
            if run.state is PageState.SHARED:
                self._tell_joined(run.range)

    def _tell_leaving(self, range_: GpaRange) -> None:
        for listener, covered in self.listeners:
            for part in _parts_of(range_, covered):
                listener.leaving(part)

    def _tell_joined(self, range_: GpaRange) -> None:
        for listener, covered in self.listeners:
            for part in _parts_of(range_, covered):
                listener.joined(part)

    def _set_attributes(self, range_: GpaRange, *, private: bool) -> None:
        self.has_set_attributes = self.has_set_attributes or private
        set_attributes(self._vm, range_, private=private)
        for region, part in self._regions().parts(range_) or ():
            state = PageState.SHARED
            if private:
                state = PageState.PRIVATE if region.two_sided else PageState.WITHHELD
            self._states.set(part, state)


def _parts_of(range_: GpaRange, covered: tuple[GpaRange, ...]) -> Iterator[GpaRange]:
    for one in covered:
        if one.overlaps(range_):
            yield GpaRange(max(one.start, range_.start), min(one.end, range_.end))
