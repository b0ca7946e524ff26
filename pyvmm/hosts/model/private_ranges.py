# SPDX-License-Identifier: MIT
"""Guest-physical addresses with KVM_MEMORY_ATTRIBUTE_PRIVATE, kept as ranges, not pages."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class PrivateRanges:
    """A set of addresses as ascending, disjoint ranges [start, end) in bytes (api.rst 4.141).

    The kernel has an entry for every page (``kvm->mem_attr_array``); what can be told is the same.
    """

    def __init__(self) -> None:
        # Boundaries: private from an even index's up to the next one's.
        self._bounds: list[int] = []

    def set(self, start: int, end: int, private: bool) -> bool:
        """Make [start, end) private or not; whether that changed anything."""
        bounds = self._bounds
        first, last = bisect_left(bounds, start), bisect_right(bounds, end)
        new = []
        if (first % 2 == 1) is not private:
            new.append(start)
        if (last % 2 == 1) is not private:
            new.append(end)
        if bounds[first:last] == new:
            return False
        bounds[first:last] = new
        return True

    def is_private(self, gpa: int) -> bool:
        """Tell whether the byte at `gpa` is private."""
        return bisect_right(self._bounds, gpa) % 2 == 1

    def runs(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        """[start, end) as ascending runs (start, end, private)."""
        bounds = self._bounds
        index = bisect_right(bounds, start)
        while start < end:
            limit = min(bounds[index], end) if index < len(bounds) else end
            yield start, limit, index % 2 == 1
            start = limit
            index += 1
