# SPDX-License-Identifier: MIT
"""The two sides of a memslot: the host's mapping of what is shared, a guest_memfd for the rest.

Where pages are converted in place both are the same guest_memfd.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from pyvmm.errors import InternalError
from pyvmm.hosts.capabilities import MemoryAttribute
from pyvmm.hosts.interface import GuestMapping, Memslot, MemslotFlag, ServedSpan, System, Vm
from pyvmm.hosts.page_holders import PageHolder
from pyvmm.machine.ownership import StackOwner
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.regions import MemoryRegion
from pyvmm.rules.abi import PAGE_SIZE

_CLEARED_AT_ONCE = 1 << 20


class MemorySides:
    """One region: its memslot and where its sides lie. Owns neither; ranges are GPAs in bytes."""

    def __init__(
        self,
        region: MemoryRegion,
        memslot: Memslot,
        mapping: GuestMapping,
        view: memoryview,
        offset: int,
    ) -> None:
        """`view` is all of `mapping`; the region's first byte is at `offset` in it."""
        self.region = region
        self._memslot = memslot
        self._mapping = mapping
        self._mapping_offset = offset
        self._view = view

    def memslot(self) -> Memslot:
        """The slot as it was first set."""
        return self._memslot

    def no_memslot(self) -> Memslot:
        """Return the memslot value that deletes the slot (api.rst 4.35: a size of 0)."""
        return self._memslot._replace(size=0)

    def served_span(self, *, touches: bool, missing: bool = False) -> ServedSpan | None:
        """For the host's fast path; None where there is nothing for it to do.

        `touches`: what the guest touches of memory without a private side becomes shared, and a
        memslot that is `missing` is set.
        """
        gpa, size = self.region.range.start, self.region.range.size
        if self.region.can_be_private:
            memslot = self._memslot
            if missing and not touches:
                return None
            return ServedSpan(
                gpa,
                size,
                memslot.hva,
                memslot.guest_memfd,
                memslot.guest_memfd_offset,
                missing=memslot if missing else None,
                in_place=self.region.in_place,
            )
        return ServedSpan(gpa, size, self._memslot.hva, touch_block=PAGE_SIZE) if touches else None

    @property
    def is_writable(self) -> bool:
        """The guest may write to it."""
        return not self._memslot.flags & MemslotFlag.READONLY

    @property
    def is_private_side_closed(self) -> bool:
        """The region has a private side and its guest_memfd is no longer open."""
        guest_memfd = self._memslot.guest_memfd
        return self.region.can_be_private and guest_memfd is not None and not guest_memfd.is_open

    def _offset(self, gpa: int) -> int:
        return gpa - self.region.range.start

    def discard_shared(self, range_: GpaRange) -> None:
        """Give back the shared side's pages; they read as zeroes from then on."""
        self._mapping.discard(self._mapping_offset + self._offset(range_.start), range_.size)

    def discard_private(self, range_: GpaRange) -> None:
        """Give back the private side's pages."""
        guest_memfd = self._memslot.guest_memfd
        if guest_memfd is None:
            raise InternalError(f"free private pages at {range_.start:#x}", "there are none")
        guest_memfd.punch_hole(
            self._memslot.guest_memfd_offset + self._offset(range_.start), range_.size
        )

    def set_attributes(self, range_: GpaRange, attributes: MemoryAttribute) -> None:
        """Convert `range_` in place. Raises as `GuestMemfd.set_attributes`."""
        guest_memfd = self._memslot.guest_memfd
        if guest_memfd is None:
            raise InternalError(f"convert pages at {range_.start:#x} in place", "there is no file")
        offset = self._memslot.guest_memfd_offset + self._offset(range_.start)
        guest_memfd.set_attributes(offset, range_.size, attributes)

    def holders(self, gpa: int) -> tuple[PageHolder, ...]:
        """Name who holds the page at `gpa`, where it is one of a guest_memfd."""
        guest_memfd = self._memslot.guest_memfd
        if guest_memfd is None or not guest_memfd.is_open:
            return ()
        return guest_memfd.holders(self._memslot.guest_memfd_offset + self._offset(gpa))

    def gpa_of(self, file_offset: int) -> int:
        """The GPA of the byte at an offset in the guest_memfd."""
        return self.region.range.start + file_offset - self._memslot.guest_memfd_offset

    @property
    def mapping(self) -> GuestMapping:
        """Mapping in which the shared side lies; this object does not own it."""
        return self._mapping

    def resident(self, range_: GpaRange) -> tuple[int, int]:
        """Bytes resident on the shared and on the private side of the pages that `range_` touches.

        All within the region. Where pages are converted in place the first is all that there is,
        whichever side they are on. Raises `HostLacksError` where the kernel cannot tell.
        """
        first, last = range_.start & -PAGE_SIZE, -(-range_.end // PAGE_SIZE) * PAGE_SIZE
        offset, size = self._offset(first), last - first
        private = 0
        guest_memfd = self._memslot.guest_memfd
        if self.region.in_place and guest_memfd is not None:
            # The mapping reaches only what is shared.
            file_offset = self._memslot.guest_memfd_offset + offset
            return guest_memfd.resident(file_offset, size), 0
        if self.region.can_be_private and guest_memfd is not None:
            private = guest_memfd.resident(self._memslot.guest_memfd_offset + offset, size)
        return self._mapping.resident(self._mapping_offset + offset, size), private

    def read(self, gpa: int, size: int) -> bytes:
        """`size` bytes of the shared side from `gpa` on, all within the region."""
        offset = self._mapping_offset + self._offset(gpa)
        return bytes(self._view[offset : offset + size])

    def view(self, range_: GpaRange) -> memoryview:
        """The shared side of `range_`, all within the region: the memory itself.

        Once the region is gone it reads as zeroes.
        """
        offset = self._mapping_offset + self._offset(range_.start)
        return self._view[offset : offset + range_.size]

    def data(self, range_: GpaRange) -> Iterator[GpaRange]:
        """Yield the parts of `range_`, all within the region, whose shared side may not be zero.

        Ascending; of any alignment, cut to `range_`. Raises as `GuestMapping.data`.
        """
        first, last = range_.start & -PAGE_SIZE, -(-range_.end // PAGE_SIZE) * PAGE_SIZE
        to_gpa = self.region.range.start - self._mapping_offset
        for start, end in self._mapping.data(first - to_gpa, last - first):
            yield GpaRange(max(start + to_gpa, range_.start), min(end + to_gpa, range_.end))

    def write(self, gpa: int, data: bytes | memoryview) -> None:
        """Copy `data` to the shared side at `gpa`, all within the region."""
        offset = self._mapping_offset + self._offset(gpa)
        self._view[offset : offset + len(data)] = data

    def cleared(self, range_: GpaRange) -> Iterator[GpaRange]:
        """Make the shared side of `range_`, all within the region, zero: yield what was just done.

        What nobody has touched is so already, and stays untouched. Raises as `data`.
        """
        for part in self.data(range_):
            for gpa in range(part.start, part.end, _CLEARED_AT_ONCE):
                size = min(_CLEARED_AT_ONCE, part.end - gpa)
                self.write(gpa, bytes(size))
                yield GpaRange(gpa, gpa + size)


class SharedMemory(StackOwner):
    """Memory that has no private side: owns its mapping, and sets its memslot.

    A core of this process has it only with `in_core`.
    """

    def __init__(
        self, system: System, vm: Vm, region: MemoryRegion, *, in_core: bool = False
    ) -> None:
        with ExitStack() as stack:
            mapping = stack.enter_context(system.map_anonymous(region.range.size, in_core=in_core))
            view = mapping.view()
            stack.callback(view.release)
            memslot = Memslot(region.slot, region.range.start, region.range.size, mapping.hva)
            vm.set_memslot(memslot)
            self.sides = MemorySides(region, memslot, mapping, view, 0)
            self.own(stack)
