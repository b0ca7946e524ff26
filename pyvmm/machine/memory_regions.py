# SPDX-License-Identifier: MIT
"""Regions of guest memory that come and go, and the devices that are told of it."""

from __future__ import annotations

from pyvmm.machine.memory_listener import MemoryListener
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.machine.tracked_memory import TrackedMemory
from pyvmm.memory.page_states import PageState


class MemoryRegions:
    """Regions of a guest's memory, each with its memslot. Any thread."""

    def __init__(self, tracked: TrackedMemory) -> None:
        self._tracked = tracked

    def sides(self) -> tuple[MemorySides, ...]:
        """Every region that has memory, ascending; one that is unplugged, too."""
        with self._tracked.exclusive():
            return tuple(
                sorted(self._tracked.sides.values(), key=lambda one: one.region.range.start)
            )

    def add(self, sides: MemorySides) -> None:
        """A region that has its memslot, all shared.

        KVM keeps attributes by GPA, whatever slots come and go (``kvm->mem_attr_array``): what was
        set there before is cleared. Raises `SystemCallError`.
        """
        with self._tracked.exclusive():
            whole = sides.region.range
            if self._tracked.executor.has_set_attributes:
                self._tracked.executor.clear_attributes(whole)
            self._tracked.sides[sides.region.slot] = sides
            self._tracked.regions = self._tracked.regions.with_region(sides.region)
            self._tracked.states.add(whole, PageState.SHARED)
            self._tracked.note_change()
            self._tracked.executor.tell_what_is_shared(whole)

    def remove(self, slot: int) -> None:
        """Delete a region's memslot; the guest finds nothing there any more, as nowhere else.

        Raises `SystemCallError`, and then the region is still there as it was.
        """
        with self._tracked.exclusive():
            sides = self._tracked.sides[slot]
            whole = sides.region.range
            with self._tracked.executor.leaving(whole):
                if slot not in self._tracked.unplugged:
                    self._tracked.vm.set_memslot(sides.no_memslot())
                try:
                    if any(
                        run.state is not PageState.SHARED
                        for run in self._tracked.states.runs(whole)
                    ):
                        self._tracked.executor.clear_attributes(whole)
                except BaseException:
                    if slot not in self._tracked.unplugged:
                        self._set_memslot_or_forget(sides)
                    raise
            self._forget(sides)

    def _set_memslot_or_forget(self, sides: MemorySides) -> None:
        try:
            self._tracked.vm.set_memslot(sides.memslot())
        except BaseException:
            self._forget(sides)
            raise

    def _forget(self, sides: MemorySides) -> None:
        slot = sides.region.slot
        del self._tracked.sides[slot]
        if self._tracked.unplugged.pop(slot, None) is None:
            self._tracked.regions = self._tracked.regions.without(sides.region)
        self._tracked.states.remove(sides.region.range)
        self._tracked.note_change()

    def listen(self, listener: MemoryListener) -> None:
        """Tell `listener` of every conversion from now on, and of all that is shared now.

        vCPUs do not convert in the host's fast path any more: who has to be told, is told first.
        """
        with self._tracked.exclusive():
            self._tracked.executor.listeners.append(listener)
            self._tracked.serve()
            for run in self._tracked.states.runs():
                if run.state is PageState.SHARED:
                    listener.joined(run.range)

    def unplug(self, slot: int) -> None:
        """Take a two-sided region's memslot away, contents and all, until the guest touches it.

        Until then it is no memory that could be converted.
        """
        with self._tracked.exclusive():
            sides = self._tracked.sides[slot]
            if slot in self._tracked.unplugged:
                return
            whole = sides.region.range
            with self._tracked.executor.leaving(whole):
                # Before the slot goes: an access to what is shared and has no slot would be MMIO.
                before = self._tracked.executor.withhold_all(whole)
                try:
                    self._tracked.vm.set_memslot(sides.no_memslot())
                except BaseException:
                    self._tracked.executor.put_back(before)
                    raise
            self._tracked.unplugged[slot] = sides
            self._tracked.regions = self._tracked.regions.without(sides.region)
            self._tracked.note_change()
            sides.discard_shared(whole)
            sides.discard_private(whole)
