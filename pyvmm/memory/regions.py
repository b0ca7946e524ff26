# SPDX-License-Identifier: MIT
"""Parts of the guest-physical address space that are memory, and those with a private side."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from pyvmm.errors import InternalError
from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE

RegionPart = tuple["MemoryRegion", GpaRange]
"""A region, and the part of it that is meant: GPAs, never empty."""


class MemoryRegion(NamedTuple):
    """One memslot: `range` in bytes of GPA, whole pages.

    `can_be_private`: it has a guest_memfd for its private pages beside the host's mapping of its
    shared ones. Otherwise there is the mapping only. `what` names it for people. `in_place`: that
    file is mapped for the shared ones, too, and keeps which are private: both sides are one memory.
    """

    slot: int
    range: GpaRange
    can_be_private: bool
    what: str
    in_place: bool = False

    @property
    def two_sided(self) -> bool:
        """It can be private, and then is other memory, with other contents."""
        return self.can_be_private and not self.in_place


@dataclass(frozen=True)
class RegionTable:
    """All regions of a VM: ascending, none overlapping another, immutable.

    Raises `InternalError` for regions that are empty, not of whole pages, out of order, that
    overlap, or that share a slot.
    """

    regions: tuple[MemoryRegion, ...] = ()
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for region in self.regions:
            start, end = region.range.start, region.range.end
            if not 0 <= start < end or (start | end) % PAGE_SIZE:
                raise _bad(region, "it is not a range of whole pages")
        for first, second in pairwise(self.regions):
            if first.range.end > second.range.start:
                raise _bad(second, f"it is not above {first.what}")
        if len({region.slot for region in self.regions}) < len(self.regions):
            raise InternalError("make a table of memory regions", "two have the same slot")
        # The dataclass is frozen; what `at` looks up is made once.
        object.__setattr__(self, "_starts", tuple(region.range.start for region in self.regions))

    def at(self, gpa: int) -> MemoryRegion | None:
        """The region that holds the byte at `gpa`."""
        index = bisect_right(self._starts, gpa) - 1
        if index >= 0:
            region = self.regions[index]
            if gpa < region.range.end:
                return region
        return None

    def parts(self, range_: GpaRange) -> tuple[RegionPart, ...] | None:
        """`range_` cut where regions meet, ascending; None unless all of it is covered.

        An empty or negative range has no parts: None as well.
        """
        position, end = range_.start, range_.end
        index = bisect_right(self._starts, position) - 1
        if index < 0 or position >= end:
            return None
        regions = self.regions
        if end <= regions[index].range.end:
            return ((regions[index], range_),)
        found: list[RegionPart] = []
        while position < end:
            if index == len(regions):
                return None
            region = regions[index]
            if not region.range.start <= position < region.range.end:
                return None
            part_end = min(end, region.range.end)
            found.append((region, GpaRange(position, part_end)))
            position = part_end
            index += 1
        return tuple(found)

    def covered(self, range_: GpaRange) -> tuple[RegionPart, ...]:
        """Return the parts of `range_` that are memory, cut where regions meet, ascending."""
        index = max(bisect_right(self._starts, range_.start) - 1, 0)
        found: list[RegionPart] = []
        for region in self.regions[index:]:
            if region.range.start >= range_.end:
                break
            start, end = max(range_.start, region.range.start), min(range_.end, region.range.end)
            if start < end:
                found.append((region, GpaRange(start, end)))
        return tuple(found)

    def with_region(self, region: MemoryRegion) -> RegionTable:
        """The table with one more. Raises `InternalError` as the constructor does."""
        index = bisect_right(self._starts, region.range.start)
        return RegionTable((*self.regions[:index], region, *self.regions[index:]))

    def without(self, region: MemoryRegion) -> RegionTable:
        """The table with one less. Raises `InternalError` when `region` is not in it."""
        if region not in self.regions:
            raise InternalError(f"forget {region.what} at {region.range.start:#x}", "not there")
        return RegionTable(tuple(other for other in self.regions if other != region))


def _bad(region: MemoryRegion, cause: str) -> InternalError:
    where = f"[{region.range.start:#x}, {region.range.end:#x})"
    return InternalError(f"add memory region {region.what} at {where}", cause)
