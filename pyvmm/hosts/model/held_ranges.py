# SPDX-License-Identifier: MIT
"""The model's held ranges: what held.c does, as it is most simply said."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts.held_ranges import SEVERAL, HeldKind, LeaseRefusal
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.queue_engine import BlockQueue, NetQueue, SplitQueue

_END = 1 << 64
_ROW = struct.Struct("=QQ")
MOST_RANGES = 65536
"""Largest number of ranges of one kind at a time."""
_IN_STEPS = (HeldKind.CONVERTING, HeldKind.WORKING)
_TAKEN = (HeldKind.CONVERTING, HeldKind.WAITING)
"""No lease is given of it."""


@dataclass(slots=True)
class _Region:
    slot: int
    gpa: int
    size: int
    writable: bool
    not_shared: set[int] = field(default_factory=set)


class ModelHeldRanges:
    """`hosts.held_ranges.HeldRanges`; `lock` gives the lock of conversions, unless it is had.

    `note_end` is called under it when something that was worked on in steps is released.
    """

    def __init__(
        self,
        lock: Callable[[], AbstractContextManager[None]] = nullcontext,
        note_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = lock
        self._note_end = note_end
        self._regions: dict[int, _Region] = {}
        self._held: dict[HeldKind, list[tuple[int, int, int]]] = {kind: [] for kind in HeldKind}
        self._last = 0
        self._closed = False

    def close(self) -> None:
        """Give no lease from here on."""
        with self._lock():
            self._closed = True

    def add_region(self, slot: int, gpa: int, size: int, *, writable: bool) -> None:
        """There is memory, all shared. Raises `InternalError` where there is some already."""
        with self._lock():
            there = any(_overlap(gpa, size, one.gpa, one.size) for one in self._regions.values())
            if there or slot in self._regions:
                raise InternalError(f"note memory region {slot} at {gpa:#x}", "it is there already")
            self._regions[slot] = _Region(slot, gpa, size, writable)

    def place(self, slot: int, view: memoryview) -> None:
        """Note nothing: who leases has the views."""

    @property
    def has_engines(self) -> bool:
        """False: Python is all there is."""
        return False

    def block_engine(self, ring: SplitQueue, disk: BlockQueue) -> None:
        """Make none."""

    def net_engine(self, ring: SplitQueue, frames: NetQueue) -> None:
        """Make none."""

    def remove_region(self, slot: int) -> None:
        """The region is there no longer."""
        with self._lock():
            self._regions.pop(slot, None)

    def note(self, gpa: int, size: int, *, shared: bool) -> None:
        """Note that the pages are shared now, or not."""
        with self._lock():
            for region in self._regions.values():
                low = max(gpa, region.gpa)
                high = min(gpa + size, region.gpa + region.size)
                pages = range(low // PAGE_SIZE, high // PAGE_SIZE)
                if shared:
                    region.not_shared.difference_update(pages)
                else:
                    region.not_shared.update(pages)

    def is_shared(self, gpa: int, size: int) -> bool:
        """Tell whether it is within one region, and all of it shared."""
        with self._lock():
            region = self._region_of(gpa, size)
            return region is not None and size > 0 and _all_shared(region, gpa, size)

    def lease(self, rows: bytes, count: int, writable: bool, /) -> int:
        """Lease all of the ranges or none; see `HeldRanges`."""
        ranges = list(_ROW.iter_unpack(rows))[:count]
        refused = _ill_formed(ranges, writable=writable)
        if refused:
            return refused
        with self._lock():
            if self._closed:
                return -LeaseRefusal.CLOSED.code
            slots = set()
            for index, (gpa, size) in enumerate(ranges):
                region, reason = self._lookup(gpa, size, writable=writable)
                if reason is not None or region is None:
                    return -(16 * index + (reason or LeaseRefusal.NO_MEMORY).code)
                slots.add(region.slot)
            if len(self._held[HeldKind.LEASE]) + len(ranges) > MOST_RANGES:
                return -LeaseRefusal.TOO_MANY.code
            return self._add(ranges, HeldKind.LEASE, *slots)

    def hold(self, ranges: Sequence[tuple[int, int]], kind: HeldKind) -> int:
        """Hold ranges in another way than as a lease; 0 where somebody works on them in steps.

        Raises `UsageError` as the interface says.
        """
        if kind is HeldKind.LEASE or _ill_formed(ranges, writable=False):
            raise UsageError(f"hold {len(ranges)} ranges of guest memory", "one is empty or wraps")
        with self._lock():
            if kind in _IN_STEPS and any(self._is_worked_on(*one) for one in ranges):
                return 0
            return self._add(ranges, kind)

    def release(self, kind: HeldKind, number: int, /) -> bool:
        """Give back what the number was given for; tell whether a conversion waits."""
        with self._lock():
            self._held[kind] = [one for one in self._held[kind] if one[2] != number]
            if kind in _IN_STEPS:
                self._note_end()
            return bool(self._held[HeldKind.WAITING])

    def overlapping(self, kind: HeldKind, gpa: int, size: int) -> int:
        """The number of what is held in that way and overlaps; 0 where there is nothing."""
        with self._lock():
            return self._overlapping(kind, gpa, size)

    # -- under the lock --

    def _add(self, ranges: Sequence[tuple[int, int]], kind: HeldKind, *slots: int) -> int:
        self._last += 1
        number = self._last << 16 | (slots[0] if len(slots) == 1 else SEVERAL)
        self._held[kind] += [(gpa, size, number) for gpa, size in ranges]
        return number

    def _overlapping(self, kind: HeldKind, gpa: int, size: int) -> int:
        return next(
            (number for at, long, number in self._held[kind] if _overlap(gpa, size, at, long)), 0
        )

    def _is_worked_on(self, gpa: int, size: int) -> bool:
        return any(self._overlapping(kind, gpa, size) for kind in _IN_STEPS)

    def _region_of(self, gpa: int, size: int) -> _Region | None:
        for region in self._regions.values():
            if region.gpa <= gpa and gpa + size <= region.gpa + region.size:
                return region
        return None

    def _lookup(
        self, gpa: int, size: int, *, writable: bool
    ) -> tuple[_Region | None, LeaseRefusal | None]:
        region = self._region_of(gpa, size)
        if region is None:
            return None, LeaseRefusal.NO_MEMORY
        if not _all_shared(region, gpa, size):
            return None, LeaseRefusal.NOT_SHARED
        if writable and not region.writable:
            return None, LeaseRefusal.READ_ONLY
        if any(self._overlapping(kind, gpa, size) for kind in _TAKEN):
            return None, LeaseRefusal.CONVERTING
        return region, None


def _overlap(gpa: int, size: int, other: int, other_size: int) -> bool:
    return gpa < other + other_size and other < gpa + size


def _all_shared(region: _Region, gpa: int, size: int) -> bool:
    if not region.not_shared:
        return True
    pages = range(gpa // PAGE_SIZE, (gpa + size - 1) // PAGE_SIZE + 1)
    return region.not_shared.isdisjoint(pages)


def _ill_formed(ranges: Sequence[tuple[int, int]], *, writable: bool) -> int:
    for index, (gpa, size) in enumerate(ranges):
        if not size:
            return -(16 * index + LeaseRefusal.EMPTY.code)
        if gpa + size > _END:
            return -(16 * index + LeaseRefusal.WRAPS.code)
    order = sorted(range(len(ranges)), key=lambda index: ranges[index][0])
    end = 0
    for index in order if writable else ():
        if ranges[index][0] < end:
            return -(16 * index + LeaseRefusal.OVERLAPS.code)
        end = sum(ranges[index])
    return 0
