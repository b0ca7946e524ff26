# SPDX-License-Identifier: MIT
"""The guest-physical address space of a VM: slots, bindings and attributes become spans.

What serves an access is asked of `pyvmm.rules.access` for each run of pages that have the same slot
and the same attribute; nothing is copied when that changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pyvmm.hosts.exits import Exit, MemoryFault, MemoryFaultFlag
from pyvmm.hosts.interface import Memslot
from pyvmm.hosts.model.address_space import Span
from pyvmm.hosts.model.guest_memfd import ModelGuestMemfd
from pyvmm.hosts.model.host_memory import HostMemory
from pyvmm.hosts.model.private_ranges import PrivateRanges
from pyvmm.rules import access
from pyvmm.rules.abi import ADDRESS_END, KVM_MEM_READONLY, PAGE_SIZE
from pyvmm.rules.access import Bound, GuestAccess, ServedByGuestMemfd, ServedShared
from pyvmm.rules.memslots import Slot
from pyvmm.rules.profile import PrivateBy


@dataclass(frozen=True, slots=True)
class ModelSlot:
    """A memslot as the model keeps it: the rules' view, its shared side, and its file.

    `shared` holds the host address where it is memory of this host; None otherwise.
    """

    slot: Slot
    memslot: Memslot
    shared: HostMemory | None
    file: ModelGuestMemfd | None

    @property
    def bound(self) -> Bound | None:
        """The binding, as the rules see it."""
        if self.file is None:
            return None
        offset = self.memslot.guest_memfd_offset
        return Bound(offset, int(self.file.flags), not self.file.is_released)


class GuestSpace:
    """Slots and attributes of one VM, and what follows from them.

    Not locked: the VM's turn is held by whoever changes it.
    """

    def __init__(self, *, private: bool) -> None:
        self._private_by = PrivateBy.ATTRIBUTES if private else PrivateBy.NOBODY
        self._slots: dict[int, ModelSlot] = {}
        self._attributes = PrivateRanges()
        self._generation = 0
        self._spans: tuple[int, list[Span]] = (-1, [])

    # -- changes --

    def set_slot(self, slot: ModelSlot) -> None:
        """There is a new slot, or a changed one."""
        self.delete_slot(slot.slot.slot)
        self._slots[slot.slot.slot] = slot
        for memory in _memories(slot):
            memory.hold(self.changed)
        if slot.file is not None:
            slot.file.on_convert.append(self.changed)
        self.changed()

    def delete_slot(self, number: int) -> None:
        """A slot, if there is one, is gone, and so is its binding."""
        slot = self._slots.pop(number, None)
        if slot is not None:
            self.changed()
            for memory in _memories(slot):
                memory.release(self.changed)
            if slot.file is not None:
                slot.file.on_convert.remove(self.changed)

    def set_attributes(self, gpa: int, size: int, *, private: bool) -> None:
        """[gpa, gpa + size) has KVM_MEMORY_ATTRIBUTE_PRIVATE, or has not."""
        if self._attributes.set(gpa, gpa + size, private):
            self.changed()

    def changed(self) -> None:
        """Note that the answer of `spans` may have changed."""
        self._generation += 1

    def close(self) -> None:
        """Delete all slots."""
        for number in list(self._slots):
            self.delete_slot(number)

    # -- answers --

    @property
    def slots(self) -> tuple[ModelSlot, ...]:
        """All slots, in no order."""
        return tuple(self._slots.values())

    @property
    def generation(self) -> int:
        """Changes whenever `spans` would answer differently."""
        return self._generation

    def spans(self) -> Sequence[Span]:
        """Return the memory that the guest reaches directly (`AddressSpace.spans`)."""
        generation, spans = self._spans
        if generation != self._generation:
            generation = self._generation
            spans = sorted(self._make_spans(), key=lambda span: span.gpa)
            self._spans = (generation, spans)
        return spans

    def _make_spans(self) -> Iterator[Span]:
        for slot in self._slots.values():
            start, end = slot.slot.gpa, slot.slot.gpa + slot.slot.size
            writable = not slot.slot.flags & KVM_MEM_READONLY
            runs = self._runs(slot, start, end)
            for low, high, private in _by_reach(slot, runs):
                address = self._address(self._served(slot, low, private, write=False), slot)
                if address is not None:
                    yield Span(low, high - low, address, writable)

    def _runs(
        self, slot: ModelSlot | None, start: int, end: int
    ) -> Iterator[tuple[int, int, bool]]:
        """Private or not, by the slot's file where that keeps it, else by the VM's attributes."""
        kept = None if slot is None or slot.file is None else slot.file.attributes
        if slot is None or kept is None:
            yield from self._attributes.runs(start, end)
            return
        moved = slot.slot.gpa - slot.memslot.guest_memfd_offset
        for low, high, private in kept.runs(start - moved, end - moved):
            yield low + moved, high + moved, private

    def _served(
        self, slot: ModelSlot | None, gpa: int, private: bool, *, write: bool
    ) -> access.AccessOutcome:
        return access.guest_access(
            GuestAccess(
                gpa,
                write,
                self._private_by,
                private and self._private_by is PrivateBy.ATTRIBUTES,
                None if slot is None else slot.slot,
                None if slot is None else slot.bound,
                host_mapped=slot is not None and _is_reached(slot, gpa),
            )
        )

    def _address(self, outcome: access.AccessOutcome, slot: ModelSlot) -> int | None:
        if isinstance(outcome, ServedShared):
            return outcome.hva
        if isinstance(outcome, ServedByGuestMemfd) and slot.file is not None:
            return slot.file.memory.address + outcome.offset
        return None

    def blocked(self, gpa: int, size: int, write: bool) -> Exit | None:
        """Judge an access (`AddressSpace.blocked`); the first page in the way decides."""
        page = gpa // PAGE_SIZE * PAGE_SIZE
        while page < min(gpa + max(size, 1), ADDRESS_END):
            slot = self._slot_at(page)
            ((_, _, private),) = self._runs(slot, page, page + PAGE_SIZE)
            outcome = self._served(slot, page, private, write=write)
            if isinstance(outcome, access.MemoryFault):
                flags = MemoryFaultFlag.PRIVATE if outcome.private else MemoryFaultFlag(0)
                return MemoryFault(outcome.gpa, PAGE_SIZE, flags, outcome.errno)
            if isinstance(outcome, access.PlainFault):
                # KVM_RUN fails without saying where; an exit with the address tells more.
                return MemoryFault(page, PAGE_SIZE, MemoryFaultFlag(0), outcome.errno)
            page += PAGE_SIZE
        return None

    def _slot_at(self, gpa: int) -> ModelSlot | None:
        for slot in self._slots.values():
            if slot.slot.gpa <= gpa < slot.slot.gpa + slot.slot.size:
                return slot
        return None


def _is_reached(slot: ModelSlot, gpa: int) -> bool:
    """Tell whether this process reaches the shared side of a page."""
    if slot.shared is None or not slot.shared.is_open:
        return False
    offset = slot.slot.hva - slot.shared.address + gpa - slot.slot.gpa
    ((_, _, is_reached),) = slot.shared.reach(offset, PAGE_SIZE)
    return is_reached


def _by_reach(
    slot: ModelSlot, runs: Iterable[tuple[int, int, bool]]
) -> Iterator[tuple[int, int, bool]]:
    """Split runs where this process reaches the shared side of a slot no longer, or again."""
    if slot.shared is None:
        yield from runs
        return
    moved = slot.slot.gpa - (slot.slot.hva - slot.shared.address)
    for low, high, private in runs:
        for start, end, _ in slot.shared.reach(low - moved, high - low):
            yield start + moved, end + moved, private


def _memories(slot: ModelSlot) -> Iterator[HostMemory]:
    if slot.shared is not None:
        yield slot.shared
    if slot.file is not None and slot.file.memory is not slot.shared:
        yield slot.file.memory
