# SPDX-License-Identifier: MIT
"""A guest's memory as the monitor keeps track of it: regions, page states, and the lock over both.

Whoever reads or changes any of it is inside of `TrackedMemory.exclusive`: the lock of all
conversions of the VM, which vCPUs that convert by themselves in the host's fast path
(`FastConversions`) take as well. So the page states are always the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.hosts.interface import MOST_SERVED_SPANS, ServedSpan, Vm
from pyvmm.machine.conversion_executor import ConversionExecutor
from pyvmm.machine.fault_progress import FaultProgress
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.machine.mirrored_states import MirroredStates
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.memory.regions import RegionTable

SharedPart: TypeAlias = tuple[MemorySides, GpaRange]
"""A region's sides, and a range within the region."""

ALL_MEMORY = GpaRange(0, 1 << 63)
"""More than there can be of it."""


class TrackedMemory:
    """The memory of one VM: what there is, and the state of each page. No policy, no counting.

    `regions` are those that the guest has; one that is `unplugged` has no memslot and is in
    `sides` only. See `GuestMemory` for the arguments.
    """

    def __init__(
        self,
        vm: Vm,
        *,
        honours_touches: bool,
        is_over: Callable[[], bool],
        in_place: bool,
        patience: float,
    ) -> None:
        self.vm = vm
        self.sides: dict[int, MemorySides] = {}
        self.regions = RegionTable()
        self.held = vm.conversions.held
        self.states = MirroredStates(self.held)
        self.bases: dict[int, tuple[memoryview, int]] = {}
        """All of each region's shared side and its GPA, by slot: leases are slices of these."""
        self.is_closed = False
        self.unplugged: dict[int, MemorySides] = {}
        self.executor = ConversionExecutor(
            vm,
            self.states,
            self.sides,
            regions=lambda: self.regions,
            is_over=is_over,
            give_way=self.give_way,
            in_place=in_place,
            patience=patience,
        )
        self.in_place = in_place
        self.progress = FaultProgress()
        self._honours_touches = honours_touches and not in_place

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """The lock on all conversions of the VM; what the fast path did is known inside."""
        with self.vm.conversions.exclusive():
            self._catch_up()
            yield

    def close(self) -> None:
        """Before the sides go: nothing is converted any more, and nothing leased.

        Waits for what is worked on in steps.
        """
        self.vm.conversions.serve([])
        with self.exclusive(), self.in_steps(ALL_MEMORY, HeldKind.CONVERTING):
            self.is_closed = True
            for slot in tuple(self.bases):
                self._take_base_away(slot)

    # -- under the lock --

    def give_way(self, seconds: float = 0.0) -> None:
        """Let others in who wait for the lock, or all for `seconds`. What they have done is known.

        What is worked on is held meanwhile (`in_steps`); all else may have changed.
        """
        if self.vm.conversions.give_way(seconds):
            self._catch_up()

    def await_end(self) -> None:
        """Let others in until work in steps on some range has ended; as `give_way`."""
        self.vm.conversions.await_end()
        self._catch_up()

    @contextmanager
    def in_steps(self, range_: GpaRange, kind: HeldKind) -> Iterator[None]:
        """Hold `range_`, CONVERTING or WORKING, for work in steps; first wait for others' of it.

        Gives way after the last step, too: whoever does the next piece of work at once would have
        the lock again before anybody has woken up. Raises as `HeldRanges.hold`.
        """
        while not (number := self.begin(range_, kind)):
            self.await_end()
        try:
            yield
        finally:
            self.end(kind, number)

    def begin(self, range_: GpaRange, kind: HeldKind) -> int:
        """Hold `range_` for work in steps until `end` of the number; 0 where somebody else does."""
        return self.held.hold([(range_.start, range_.size)], kind)

    def end(self, kind: HeldKind, number: int) -> None:
        """The last step is done."""
        self.held.release(kind, number)
        self.give_way()

    def is_worked_on(self, range_: GpaRange) -> bool:
        """Tell whether somebody works on any of `range_` in steps."""
        return any(
            self.held.overlapping(kind, range_.start, range_.size)
            for kind in (HeldKind.CONVERTING, HeldKind.WORKING)
        )

    def add(self, sides: MemorySides) -> None:
        """A region is there, with its memslot, all shared."""
        region = sides.region
        regions = self.regions.with_region(region)
        self.held.add_region(
            region.slot, region.range.start, region.range.size, writable=sides.is_writable
        )
        self.states.add(region.range, PageState.SHARED)
        self.sides[region.slot] = sides
        self.regions = regions
        view = sides.view(region.range)
        self.bases[region.slot] = view, region.range.start
        self.held.place(region.slot, view)
        self.note_change()

    def forget(self, sides: MemorySides) -> None:
        """A region is there no more, nor its memslot; nothing of it is leased."""
        slot = sides.region.slot
        del self.sides[slot]
        if self.unplugged.pop(slot, None) is None:
            self.regions = self.regions.without(sides.region)
        self.states.remove(sides.region.range)
        self._take_base_away(slot)
        self.note_change()

    def _take_base_away(self, slot: int) -> None:
        self.held.remove_region(slot)
        self.bases.pop(slot)[0].release()

    def note_change(self) -> None:
        """Regions have come or gone: an access that could not be resolved may be now."""
        self.progress.note_change()
        self.serve()

    def serve(self) -> None:
        """Tell the host's fast path what it may convert."""
        spans: list[ServedSpan] = []
        for slot, sides in self.sides.items():
            span = sides.served_span(touches=self._honours_touches, missing=slot in self.unplugged)
            if span is not None:
                spans.append(span)
        # What a host's fast path cannot take goes the long way.
        self.vm.conversions.serve(spans[:MOST_SERVED_SPANS])

    def note_unplugged(self, sides: MemorySides) -> None:
        """A region, all private, has no memslot any more."""
        self.states.catch_up(sides.region.range, PageState.WITHHELD)
        self.unplugged[sides.region.slot] = sides
        self.regions = self.regions.without(sides.region)
        self.note_change()

    def note_plugged(self, sides: MemorySides) -> None:
        """An unplugged region has its memslot again, all private."""
        del self.unplugged[sides.region.slot]
        self.regions = self.regions.with_region(sides.region)
        self.states.catch_up(sides.region.range, PageState.PRIVATE)

    def unplugged_at(self, gpa: int) -> MemorySides | None:
        """The region that would hold the byte at `gpa` and is unplugged."""
        unplugged = self.unplugged.values()
        return next((sides for sides in unplugged if sides.region.range.contains(gpa, 1)), None)

    def is_unplugged_within(self, asked: GpaRange) -> bool:
        """Tell whether any of `asked` is of a region that is unplugged."""
        return any(sides.region.range.overlaps(asked) for sides in self.unplugged.values())

    def shared_parts(self, gpa: int, size: int) -> Sequence[SharedPart] | None:
        """[gpa, gpa + size) cut where regions meet, ascending; None unless all of it is shared.

        None, too, once the machine is closed: the host sees nothing of it any more.
        """
        asked = GpaRange(gpa, gpa + size)
        parts = None if self.is_closed else self.regions.parts(asked)
        if parts is None:
            return None
        if any(run.state is not PageState.SHARED for run in self.states.runs(asked)):
            return None
        return [(self.sides[region.slot], part) for region, part in parts]

    def writable_regions(self) -> tuple[tuple[int, int, int], ...]:
        """GPA, length in bytes and HVA of each region that the guest can write to, ascending."""
        slots = [one.memslot() for one in self.sides.values() if one.is_writable]
        return tuple(sorted((slot.gpa, slot.size, slot.hva) for slot in slots))

    def _catch_up(self) -> None:
        """Note down what vCPUs have converted by themselves."""
        for done in self.vm.conversions.drain():
            self.progress.note_change()
            sides = self.unplugged_at(done.gpa) if done.plugged else None
            if sides is not None:
                self.note_plugged(sides)
                continue
            self.executor.has_set_attributes |= done.private
            state = PageState.PRIVATE if done.private else PageState.SHARED
            self.states.catch_up(GpaRange(done.gpa, done.gpa + done.size), state)
