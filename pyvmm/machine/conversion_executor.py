# SPDX-License-Identifier: MIT
"""Plans of conversions carried out on a VM: each step, what is noted of it, and its way back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyvmm.hosts.interface import Vm
from pyvmm.machine.attributes import AttributeSetter, HeldPageError
from pyvmm.machine.memory_listener import MemoryListener
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState, PageStates
from pyvmm.memory.regions import RegionTable
from pyvmm.memory.steps import steps_in

if TYPE_CHECKING:
    from pyvmm.memory.conversion import ConversionPlan, Step


class ConversionExecutor:
    """Sets attributes, gives pages back, tells listeners, and keeps `states` what the kernel has.

    Whoever calls holds the lock of all conversions, and has the range held as CONVERTING or WORKING
    (`HeldKind`): between two steps of `memory.steps.STEP` bytes the lock is given away
    (`give_way`), and then nobody else changes anything there. At each such moment the states are
    the kernel's, and listeners know of them.

    `sides` are those of the regions that plans are made for, by slot, a live view; `regions` gives
    the table that plans are made with. `is_over` is asked before each step of a conversion: a run
    that has ended stops there. Listeners that were told that a range leaves, and find out that it
    did not since a later step failed, are told that it has joined.

    `in_place`: the VM has no attributes, and only regions that are converted in place have any. A
    page of theirs that somebody holds is tried again for `patience` seconds.
    """

    def __init__(
        self,
        vm: Vm,
        states: PageStates,
        sides: Mapping[int, MemorySides],
        *,
        regions: Callable[[], RegionTable],
        is_over: Callable[[], bool],
        give_way: Callable[[float], None],
        in_place: bool,
        patience: float,
    ) -> None:
        self._vm = vm
        self._states = states
        self._sides = sides
        self._regions = regions
        self._is_over = is_over
        self._give_way = give_way
        self._in_place = in_place
        self._patience = patience
        self.listeners: list[tuple[MemoryListener, tuple[GpaRange, ...]]] = []
        """Each with the ranges that it listens to."""
        self.has_set_attributes = False
        """True once PRIVATE has been set anywhere: KVM may have it where there is no memory now."""

    def in_steps(self, range_: GpaRange) -> Iterator[GpaRange]:
        """Yield `range_` in steps, and give the lock away between them."""
        for step in steps_in(range_):
            if step.start != range_.start:
                self._give_way(0.0)
            yield step

    def execute(
        self, planned: ConversionPlan, is_wanted: Callable[[], bool] = lambda: False
    ) -> bool:
        """Do all steps, in order; False where the run was over before the last.

        A page that is held is waited for no longer than `is_wanted` is false.

        Raises `SystemCallError` when the kernel fails in the middle: the states tell how far it
        got. Raises `HeldPageError` where somebody holds a page, and then nothing has changed: what
        was converted in place until then is converted back, with its contents.
        """
        before = tuple(self._states.runs(_whole(planned))) if self._in_place else ()
        try:
            return self._execute(planned, self._attributes(is_wanted))
        except HeldPageError:
            self.put_back(before)
            raise

    def _execute(self, planned: ConversionPlan, attributes: AttributeSetter) -> bool:
        for number, chunk in enumerate(planned.chunks()):
            if number:
                self._give_way(0.0)
            if self._is_over():
                return False
            self._execute_chunk(chunk, attributes)
        return True

    def _execute_chunk(self, chunk: tuple[Step, ...], attributes: AttributeSetter) -> None:
        from pyvmm.memory.conversion import (  # Loaded by whoever has made the plan.
            DiscardPrivate,
            DiscardShared,
            SetAttributes,
            TellJoined,
            TellLeaving,
        )

        to_tell: GpaRange | None = None
        try:
            for step in chunk:
                match step:
                    case TellLeaving(range_):
                        to_tell = range_
                        self._tell_leaving(range_)
                    case SetAttributes(range_, private):
                        to_tell = range_
                        self._set_attributes(attributes, range_, private=private)
                    case DiscardShared(region, range_):
                        self._sides[region.slot].discard_shared(range_)
                    case DiscardPrivate(region, range_):
                        self._sides[region.slot].discard_private(range_)
                    case TellJoined(range_):
                        to_tell = None
                        self._tell_joined(range_)
        except BaseException:
            if to_tell is not None:
                self.tell_what_is_shared(to_tell)
            raise

    @contextmanager
    def leaving(self, range_: GpaRange) -> Iterator[None]:
        """Tell listeners that `range_` leaves; where the body fails, what is shared has joined.

        Inside, the states do not tell what listeners reach: `MemoryRegions.listen` waits.
        """
        try:
            for step in self.in_steps(range_):
                self._tell_leaving(step)
            yield
        except BaseException:
            self.tell_what_is_shared(range_)
            raise

    def take_away(self, range_: GpaRange) -> tuple[PageRun, ...]:
        """Make all of `range_`, whose memslot is about to go, private; the states until now.

        Tells listeners. Raises `SystemCallError`, and then all is as it was (`put_back`).
        """
        before = tuple(self._states.runs(range_))
        attributes = self._attributes()
        try:
            for step in self.in_steps(range_):
                self._tell_leaving(step)
                self._set_attributes(attributes, step, private=True)
        except BaseException:
            self.put_back(before)
            raise
        return before

    def put_back(self, before: tuple[PageRun, ...]) -> None:
        """Undo `take_away`, where the memslot has stayed. Raises `SystemCallError`."""
        attributes = self._attributes()
        for run in before:
            if run.state is not PageState.SHARED:
                continue
            for step in self.in_steps(run.range):
                if any(now.state is not PageState.SHARED for now in self._states.runs(step)):
                    self._set_attributes(attributes, step, private=False)
                self._tell_joined(step)

    def clear_attributes(self, sides: MemorySides) -> None:
        """Take PRIVATE off all of a region that is not memory yet. Raises as `execute`."""
        attributes = self._attributes()
        for step in self.in_steps(sides.region.range):
            if not self._in_place:
                attributes.set(step, private=False)
            elif sides.region.in_place:
                attributes.set_in_file(sides, step, private=False)

    def clear_attributes_of_memory(self, range_: GpaRange) -> None:
        """Take PRIVATE off all of `range_`, whose memslot has gone; it is shared then.

        What a guest_memfd keeps stays there: the host does not see what was private. Raises
        `SystemCallError`, and then all is as it was, if the kernel lets it.
        """
        if self._in_place:
            return
        attributes = self._attributes()
        done: list[PageRun] = []
        try:
            for run in tuple(self._states.runs(range_)):
                if run.state is PageState.SHARED:
                    continue
                for step in self.in_steps(run.range):
                    attributes.set(step, private=False)
                    self._states.set(step, PageState.SHARED)
                    done.append(PageRun(step, run.state))
        except BaseException:
            for was in done:
                attributes.set(was.range, private=True)
                self._states.set(was.range, was.state)
                self._give_way(0.0)
            raise

    def tell_what_is_shared(self, range_: GpaRange) -> None:
        """Tell listeners of the shared pages of `range_`."""
        for step in self.in_steps(range_):
            for run in self._states.runs(step):
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

    def _attributes(self, is_wanted: Callable[[], bool] = lambda: False) -> AttributeSetter:
        return AttributeSetter(
            self._vm,
            self._give_way,
            is_over=self._is_over,
            is_wanted=is_wanted,
            patience=self._patience,
        )

    def _set_attributes(
        self, attributes: AttributeSetter, range_: GpaRange, *, private: bool
    ) -> None:
        self.has_set_attributes = self.has_set_attributes or private
        if not self._in_place:
            attributes.set(range_, private=private)
        for region, part in self._regions().covered(range_):
            if region.in_place:
                attributes.set_in_file(self._sides[region.slot], part, private=private)
            state = PageState.SHARED
            if private:
                state = PageState.PRIVATE if region.can_be_private else PageState.WITHHELD
            self._states.set(part, state)


def _whole(planned: ConversionPlan) -> GpaRange:
    """The range that a plan is about."""
    return GpaRange(planned.request.gpa, planned.request.gpa + planned.request.size)


def _parts_of(range_: GpaRange, covered: tuple[GpaRange, ...]) -> Iterator[GpaRange]:
    for one in covered:
        if one.overlaps(range_):
            yield GpaRange(max(one.start, range_.start), min(one.end, range_.end))
