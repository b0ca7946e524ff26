# SPDX-License-Identifier: MIT
"""Regions of guest memory that come and go, and the devices that are told of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyvmm.errors import UsageError
from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.machine.leases import Leases
from pyvmm.machine.memory_listener import MemoryListener
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.machine.tracked_memory import TrackedMemory
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState


class MemoryRegions:
    """Regions of a guest's memory, each with its memslot. Any thread."""

    def __init__(self, tracked: TrackedMemory, leases: Leases) -> None:
        self._tracked = tracked
        self._leases = leases

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
        whole = sides.region.range
        with self._tracked.exclusive(), self._tracked.in_steps(whole, HeldKind.WORKING):
            if self._tracked.executor.has_set_attributes:
                self._tracked.executor.clear_attributes(sides)
            self._tracked.add(sides)
            self._tracked.executor.tell_what_is_shared(whole)

    def remove(self, slot: int, *, on_vcpu: bool = False) -> None:
        """Delete a region's memslot; the guest finds nothing there any more, as nowhere else.

        Waits for leases of it, `on_vcpu` as for `Vacating.wait`. Raises `SystemCallError` or
        `LeaseHeldError`, and then the region is still there as it was.
        """
        sides = self._tracked.sides[slot]
        whole = sides.region.range
        with self._taken(sides, "remove", on_vcpu) as is_there:
            if not is_there:
                return
            is_plugged = slot not in self._tracked.unplugged
            with self._tracked.executor.leaving(whole):
                if is_plugged:
                    self._tracked.vm.set_memslot(sides.no_memslot())
                try:
                    self._tracked.executor.clear_attributes_of_memory(whole)
                except BaseException:
                    if is_plugged:
                        self._set_memslot_or_forget(sides)
                    raise
            self._tracked.forget(sides)

    def _set_memslot_or_forget(self, sides: MemorySides) -> None:
        try:
            self._tracked.vm.set_memslot(sides.memslot())
        except BaseException:
            self._tracked.forget(sides)
            raise

    @contextmanager
    def _taken(self, sides: MemorySides, verb: str, on_vcpu: bool = False) -> Iterator[bool]:
        """Wait for leases of a region, then for who works on it in steps; inside, hold the lock.

        False where it has been removed meanwhile. Raises `LeaseHeldError`.
        """
        region = sides.region
        with self._leases.vacating(region.range) as vacating:
            attempt = f"{verb} {region.what} at gpa {region.range.start:#x}"
            vacating.wait(attempt, on_vcpu=on_vcpu)
            with (
                self._tracked.exclusive(),
                self._tracked.in_steps(region.range, HeldKind.CONVERTING),
            ):
                yield self._tracked.sides.get(region.slot) is sides

    def listen(self, listener: MemoryListener, covered: Sequence[GpaRange]) -> None:
        """Tell `listener` of every conversion in `covered`, and of what is shared there now.

        vCPUs do not convert these ranges in the host's fast path any more: who has to be told, is
        told first. What they convert elsewhere goes on there. Raises `UsageError` for a range that
        is empty or not of 64-bit addresses.
        """
        with self._tracked.exclusive():
            # Of what is being removed, some has left and is shared by its state.
            while any(self._tracked.is_worked_on(one) for one in covered):
                self._tracked.await_end()
            self._tracked.held.hold([(one.start, one.size) for one in covered], HeldKind.LISTENER)
            self._tracked.executor.listeners.append((listener, tuple(covered)))
            for one in covered:
                for run in self._tracked.states.runs(one):
                    if run.state is PageState.SHARED:
                        listener.joined(run.range)

    def unplug(self, slot: int) -> None:
        """Take a two-sided region's memslot away, contents and all, until the guest touches it.

        Until then it is no memory that could be converted. Raises as `remove`, and `UsageError`
        where the VM keeps no attributes: without a memslot nothing says there what is private.
        """
        sides = self._tracked.sides[slot]
        if self._tracked.in_place:
            raise UsageError(
                f"unplug {sides.region.what} at gpa {sides.region.range.start:#x}",
                "its pages are converted in place: without its memslot the guest would find a "
                "device's place there, and its next touch could not bring the memory back",
                "use two-sided private memory (--private-backing two-sided)",
            )
        whole = sides.region.range
        with self._taken(sides, "unplug") as is_there:
            if not is_there or slot in self._tracked.unplugged:
                return
            # Before the slot goes: an access to what is shared and has no slot would be MMIO.
            before = self._tracked.executor.take_away(whole)
            try:
                self._tracked.vm.set_memslot(sides.no_memslot())
            except BaseException:
                self._tracked.executor.put_back(before)
                raise
            self._tracked.note_unplugged(sides)
            for step in self._tracked.executor.in_steps(whole):
                sides.discard_shared(step)
                sides.discard_private(step)
