# SPDX-License-Identifier: MIT
"""Held ranges of guest memory, kept by held.c beside the lock of conversions."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.hosts.kvm.binding import CData, ffi, lib, new, refused

if TYPE_CHECKING:
    from pyvmm.hosts.queue_engine import BlockEngine, BlockQueue, NetQueue, QueueEngine, SplitQueue

_ROW = "uint64_t[]"


class KvmHeldRanges:
    """`hosts.held_ranges.HeldRanges` of the VM whose conversions are `raw`, which must stay."""

    def __init__(self, raw: CData) -> None:
        self._raw = raw
        # These two are called for every request of a device's: spared a call.
        self.lease: Callable[[bytes, int, bool], int] = partial(lib.pyvmm_held_lease, raw)
        """Lease all of the ranges or none; see `HeldRanges`."""
        self.release: Callable[[HeldKind, int], bool] = partial(lib.pyvmm_held_release, raw)
        """Give back what the number was given for; tell whether a conversion waits."""

    def add_region(self, slot: int, gpa: int, size: int, *, writable: bool) -> None:
        """There is memory, all shared. Raises `InternalError` where there is some already."""
        result = lib.pyvmm_held_add_region(self._raw, slot, gpa, size, writable)
        attempt = f"note memory region {slot} at {gpa:#x}"
        if result == -errno.ENOMEM:
            raise refused(errno.ENOMEM, attempt)
        if result < 0:
            raise InternalError(attempt, "it is there already, or none that could be")

    def place(self, slot: int, view: memoryview) -> None:
        """Note where the region is mapped."""
        lib.pyvmm_held_place(self._raw, slot, int(ffi.cast("uintptr_t", ffi.from_buffer(view))))

    @property
    def has_engines(self) -> bool:
        """True: engines are C's."""
        return True

    def block_engine(self, ring: SplitQueue, disk: BlockQueue) -> BlockEngine:
        """Make an engine. Raises `SystemCallError`."""
        from pyvmm.hosts.kvm.block_engine import KvmBlockEngine  # Most machines have no disk.

        return KvmBlockEngine(self._raw, ring, disk)

    def net_engine(self, ring: SplitQueue, frames: NetQueue) -> QueueEngine:
        """Make an engine. Raises `SystemCallError`."""
        from pyvmm.hosts.kvm.net_engine import KvmNetEngine  # Most machines have no card.

        return KvmNetEngine(self._raw, ring, frames)

    def remove_region(self, slot: int) -> None:
        """The region is there no longer."""
        lib.pyvmm_held_remove_region(self._raw, slot)

    def note(self, gpa: int, size: int, *, shared: bool) -> None:
        """Note that the pages are shared now, or not."""
        lib.pyvmm_held_note(self._raw, gpa, size, shared)

    def is_shared(self, gpa: int, size: int) -> bool:
        """Tell whether it is within one region, and all of it shared."""
        return bool(lib.pyvmm_held_is_shared(self._raw, gpa, size))

    def hold(self, ranges: Sequence[tuple[int, int]], kind: HeldKind) -> int:
        """Hold ranges in another way than as a lease; 0 where somebody works on them in steps.

        Raises `UsageError` as the interface says.
        """
        rows = new(_ROW, 2 * len(ranges))
        for index, (gpa, size) in enumerate(ranges):
            rows[2 * index], rows[2 * index + 1] = gpa, size
        number: int = lib.pyvmm_held_hold(self._raw, kind, rows, len(ranges))
        attempt = f"hold {len(ranges)} ranges of guest memory"
        if number == -errno.ENOMEM:
            raise refused(errno.ENOMEM, attempt)
        if number == -errno.E2BIG:
            raise UsageError(attempt, "too many are held", "cover the memory with fewer")
        if number < 0:
            raise UsageError(attempt, "one is empty or wraps")
        return number

    def overlapping(self, kind: HeldKind, gpa: int, size: int) -> int:
        """The number of what is held in that way and overlaps; 0 where there is nothing."""
        number: int = lib.pyvmm_held_overlapping(self._raw, kind, gpa, size)
        return number
