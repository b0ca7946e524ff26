# SPDX-License-Identifier: MIT
"""Guest memory that an image leaves free for its initrd and its boot tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyvmm.boot.claims import Claim, claim_of
from pyvmm.errors import ImageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import (
    BOOT_GDT,
    HIGH_MEMORY_START,
    HOLE_START,
    LOW_USABLE_END,
    GpaRange,
)
from pyvmm.rules.abi import PAGE_SIZE

_LOW = GpaRange(BOOT_GDT, LOW_USABLE_END)
"""The interrupt vectors and the BIOS data area of a PC are below."""
_TABLE_ALIGN = 16


class FreeMemory:
    """Usable RAM, without what is taken already.

    It has three parts: `_LOW` for tables, what lies above 1 MiB, and what lies above 4 GiB. Each
    place that is given away is taken from then on. All addresses are GPAs in bytes.
    """

    def __init__(self, address_map: AddressMap, taken: Sequence[GpaRange], attempt: str) -> None:
        self._high = GpaRange(HIGH_MEMORY_START, address_map.ram[0].range.end)
        self._above_4g = tuple(one.range for one in address_map.ram[1:])
        self._taken = sorted(taken, key=lambda range_: range_.start)
        self._attempt = attempt

    def table(self, preferred: int, data: bytes, what: str) -> Claim:
        """The claim of `data`, not empty, where `place` puts it."""
        return claim_of(self.place(preferred, len(data), what), data, what)

    def place(self, preferred: int, size: int, what: str, *, align: int = _TABLE_ALIGN) -> int:
        """A place for `size` bytes of `what`: `preferred`, or where the image leaves room.

        That is as low as possible, and where there is no low memory left as high as possible: a
        kernel uses what lies behind it. `align` is in bytes, a page's at most. Raises `ImageError`
        where there is no room at all.
        """
        wanted = GpaRange(preferred, preferred + size)
        if self.has(wanted):
            return self._take(wanted)
        low = (_first(gap, size, align) for gap in self._gaps(_LOW))
        gpa = next((gpa for gpa in low if gpa is not None), None)
        if gpa is None:
            gpa = self.highest_pages(size)
        if gpa is None:
            raise ImageError(
                self._attempt,
                f"the image leaves no room for {what}, {size} bytes",
                "give the guest more with --memory",
            )
        return self._take(GpaRange(gpa, gpa + size))

    def has(self, wanted: GpaRange) -> bool:
        """Tell whether all of `wanted`, which is usable RAM, is free."""
        return not any(wanted.overlaps(other) for other in self._taken)

    def highest_pages(self, size: int, end: int = HOLE_START) -> int | None:
        """The highest page between 1 MiB and `end` from which on `size` bytes are free.

        `end` is exclusive; what lies above the MMIO hole is not looked at.
        """
        return self._highest(size, GpaRange(self._high.start, min(self._high.end, end)))

    def highest_pages_above_4g(self, size: int) -> int | None:
        """The highest page above 4 GiB from which on `size` bytes are free."""
        found = (self._highest(size, within) for within in reversed(self._above_4g))
        return next((gpa for gpa in found if gpa is not None), None)

    def _highest(self, size: int, within: GpaRange) -> int | None:
        for gap in reversed(list(self._gaps(within))):
            gpa = (gap.end - size) // PAGE_SIZE * PAGE_SIZE
            if gpa >= -(-gap.start // PAGE_SIZE) * PAGE_SIZE:
                return gpa
        return None

    def lowest_pages(self, size: int, start: int) -> int | None:
        """The lowest page from `start` on, above 1 MiB, from which on `size` bytes are free."""
        first = max(start, self._high.start)
        if first >= self._high.end:
            return None
        pages = (
            _first(gap, size, PAGE_SIZE) for gap in self._gaps(GpaRange(first, self._high.end))
        )
        return next((gpa for gpa in pages if gpa is not None), None)

    def take(self, claim: Claim) -> None:
        """Nothing else goes there any more."""
        self._take(claim.range)

    def _take(self, range_: GpaRange) -> int:
        self._taken = sorted((*self._taken, range_), key=lambda other: other.start)
        return range_.start

    def _gaps(self, within: GpaRange) -> Iterator[GpaRange]:
        start = within.start
        for other in self._taken:
            if other.start >= within.end:
                break
            if other.start > start:
                yield GpaRange(start, other.start)
            start = max(start, other.end)
        if start < within.end:
            yield GpaRange(start, within.end)


def _first(gap: GpaRange, size: int, align: int) -> int | None:
    gpa = -(-gap.start // align) * align
    return gpa if gpa + size <= gap.end else None
