# SPDX-License-Identifier: MIT
"""Guest RAM after the end, of two runs: which pages differ, and where.

RAM is compared page by page over regions that mean something. A page that is zero in one and not in
the other was touched in one run only: a firmware's leftover, say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import HIGH_MEMORY_START, MIB, GpaRange
from pyvmm.rules.abi import PAGE_SIZE

Read = Callable[[int, int], bytes]
"""Guest RAM of a run: (offset in bytes within RAM without the holes, size in bytes) to contents."""

_CHUNK = 256 << 10
_ZERO_PAGE = bytes(PAGE_SIZE)
_SAMPLES = 4

LOW = "below 1 MiB"
IMAGE = "image"
REST = "rest"
ABOVE = "above 4 GiB"

PREDICTABLE_REGIONS = (REST, ABOVE)
"""Those that hold nothing but what the guest put there, unless a pc's BIOS did."""

REASONS = {
    LOW: "boot data (start info, command line, memory map) is where each monitor puts it, and "
    "QEMU's firmware works there",
    IMAGE: "the guest's own data, stack and page tables hold addresses of boot data, and traces of "
    "interrupts and of its processor",
    REST: "a pc's BIOS has run there and keeps tables at the top of memory; what the guest wrote "
    "differs where its memory map does",
    ABOVE: "what the guest wrote differs where its memory map does",
}
"""Reasons why the pages of a region may differ though the guest behaves alike."""


@dataclass(frozen=True, slots=True)
class RamRegion:
    """A part of RAM: `range` in bytes of GPA, whole pages; where it starts within RAM (bytes)."""

    name: str
    range: GpaRange
    offset: int


@dataclass(frozen=True, slots=True)
class PageCounts:
    """Comparison of a region's pages, as counts; `only_...`: those that are zero in the other one.

    `samples` are the GPAs of the first pages that differ in any way.
    """

    same: int = 0
    only_reference: int = 0
    only_other: int = 0
    different: int = 0
    samples: tuple[int, ...] = ()

    @property
    def differing(self) -> int:
        """Pages that differ in any way."""
        return self.only_reference + self.only_other + self.different


@dataclass(frozen=True, slots=True)
class RegionComparison:
    """A region in two runs, with the SHA-256 of each."""

    region: RamRegion
    reference_sha256: str
    other_sha256: str
    pages: PageCounts


def regions_of(address_map: AddressMap, image_end: int) -> tuple[RamRegion, ...]:
    """RAM cut where its meaning changes; `image_end` is the end (GPA) of what was loaded.

    The image's region goes up to the next multiple of 2 MiB: what a kernel keeps right behind
    itself (its BSS, its first page tables) is there.
    """
    low, *high = address_map.ram
    low_end = low.range.end
    border = min(-(-max(image_end, HIGH_MEMORY_START) // (2 * MIB)) * 2 * MIB, low_end)
    regions = [
        RamRegion(LOW, GpaRange(0, HIGH_MEMORY_START), 0),
        RamRegion(IMAGE, GpaRange(HIGH_MEMORY_START, border), HIGH_MEMORY_START),
    ]
    if border < low_end:
        regions.append(RamRegion(REST, GpaRange(border, low_end), border))
    regions += [RamRegion(ABOVE, one.range, one.file_offset) for one in high]
    return tuple(regions)


def digests(read: Read, regions: Sequence[RamRegion]) -> tuple[str, tuple[str, ...]]:
    """SHA-256 in hexadecimal of all RAM, and of each region."""
    whole = hashlib.sha256()
    parts = []
    for region in regions:
        part = hashlib.sha256()
        for offset, size in _chunks(region):
            data = read(offset, size)
            whole.update(data)
            part.update(data)
        parts.append(part.hexdigest())
    return whole.hexdigest(), tuple(parts)


def compare_pages(reference: Read, other: Read, region: RamRegion) -> PageCounts:
    """Look at each page of a region in both."""
    same = only_reference = only_other = different = 0
    samples: list[int] = []
    for offset, size in _chunks(region):
        ours, theirs = reference(offset, size), other(offset, size)
        if ours == theirs:
            same += size // PAGE_SIZE
            continue
        for at in range(0, size, PAGE_SIZE):
            mine, its = ours[at : at + PAGE_SIZE], theirs[at : at + PAGE_SIZE]
            if mine == its:
                same += 1
                continue
            if len(samples) < _SAMPLES:
                samples.append(region.range.start + offset + at - region.offset)
            if its == _ZERO_PAGE:
                only_reference += 1
            elif mine == _ZERO_PAGE:
                only_other += 1
            else:
                different += 1
    return PageCounts(same, only_reference, only_other, different, tuple(samples))


def _chunks(region: RamRegion) -> list[tuple[int, int]]:
    end = region.offset + region.range.size
    return [(at, min(_CHUNK, end - at)) for at in range(region.offset, end, _CHUNK)]
