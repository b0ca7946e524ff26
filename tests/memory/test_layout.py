# SPDX-License-Identifier: MIT
"""The guest-physical layout: ranges that agree with each other, for every size of memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import UsageError
from pyvmm.memory import layout as gpa
from pyvmm.memory.layout import GIB, MIB, GpaRange, MemoryLayout, RangeKind
from pyvmm.rules.abi import PAGE_SIZE

TIB = 1 << 40
EDGES = (
    2 * MIB,
    gpa.HOLE_START - PAGE_SIZE,
    gpa.HOLE_START,
    gpa.HOLE_START + PAGE_SIZE,
    4 * GIB,
    16 * TIB,
)
sizes = st.one_of(
    st.sampled_from(EDGES),
    st.integers(2 * MIB // PAGE_SIZE, 16 * TIB // PAGE_SIZE).map(lambda pages: pages * PAGE_SIZE),
    st.integers(2, 4096).map(lambda mib: mib * MIB),
)

PVH_DATA = (
    GpaRange(gpa.BOOT_GDT, gpa.BOOT_GDT + 32),
    GpaRange(gpa.PVH_START_INFO, gpa.PVH_START_INFO + PAGE_SIZE),
    GpaRange(gpa.PVH_MEMMAP, gpa.PVH_MEMMAP + 0xC00),
    GpaRange(gpa.COMMAND_LINE, gpa.COMMAND_LINE + gpa.COMMAND_LINE_MAX),
)
MULTIBOOT_DATA = (
    GpaRange(gpa.BOOT_GDT, gpa.BOOT_GDT + 32),
    GpaRange(gpa.MULTIBOOT_INFO, gpa.MULTIBOOT_INFO + PAGE_SIZE),
    GpaRange(gpa.MULTIBOOT_MEMMAP, gpa.MULTIBOOT_MEMMAP + 0xC00),
    GpaRange(gpa.COMMAND_LINE, gpa.COMMAND_LINE + gpa.COMMAND_LINE_MAX),
)


@pytest.mark.parametrize("ranges", [PVH_DATA, MULTIBOOT_DATA], ids=["pvh", "multiboot"])
def test_boot_data_do_not_overlap_and_lie_in_low_memory(ranges: tuple[GpaRange, ...]) -> None:
    for first, second in pairwise(sorted(ranges, key=lambda range_: range_.start)):
        assert not first.overlaps(second)
    assert all(range_.end <= gpa.LOW_USABLE_END for range_ in ranges)
    assert all(range_.start >= 0x500 for range_ in ranges), "below is the BIOS data area"


@given(memory=sizes)
def test_regions_hold_all_memory_once(memory: int) -> None:
    layout = MemoryLayout.of(memory)
    assert layout.memory == memory
    assert sum(region.range.size for region in layout.regions) == memory
    assert [region.slot for region in layout.regions] == list(range(len(layout.regions)))
    offset = 0
    for region in layout.regions:
        assert region.file_offset == offset, "the backing file has no holes"
        assert region.range.start % PAGE_SIZE == region.range.size % PAGE_SIZE == 0
        assert not region.range.overlaps(GpaRange(gpa.HOLE_START, gpa.HOLE_END))
        offset += region.range.size
    assert layout.end == max(region.range.end for region in layout.regions)
    assert len(layout.regions) == (1 if memory <= gpa.HOLE_START else 2)


@given(memory=sizes)
def test_memory_map_is_sorted_and_describes_the_regions(memory: int) -> None:
    layout = MemoryLayout.of(memory)
    for first, second in pairwise(layout.memory_map):
        assert first.range.end <= second.range.start
    for entry in layout.memory_map:
        assert entry.range.size > 0
        assert layout.file_offset(entry.range.start, entry.range.size) is not None
    assert sum(entry.range.size for entry in layout.memory_map) == memory
    reserved = [e.range for e in layout.memory_map if e.kind is RangeKind.RESERVED]
    assert reserved == [GpaRange(gpa.LOW_USABLE_END, gpa.HIGH_MEMORY_START)]


@given(memory=sizes, data=st.data())
def test_file_offset_and_usable_agree_with_a_search(memory: int, data: st.DataObject) -> None:
    layout = MemoryLayout.of(memory)
    borders = sorted(
        {border for entry in layout.memory_map for border in (entry.range.start, entry.range.end)}
    )
    start = data.draw(st.sampled_from(borders)) + data.draw(st.integers(-2, 2))
    size = data.draw(st.integers(1, 4))
    span = range(start, start + size)

    def usable(byte: int) -> bool:
        return (
            0 <= byte < gpa.LOW_USABLE_END
            or gpa.HIGH_MEMORY_START <= byte < min(memory, gpa.HOLE_START)
            or gpa.HOLE_END <= byte < layout.end
        )

    def backed(byte: int) -> bool:
        return usable(byte) or gpa.LOW_USABLE_END <= byte < gpa.HIGH_MEMORY_START

    # A span of 4 bytes never reaches from one usable range into another.
    assert layout.is_usable(start, size) == all(usable(byte) for byte in span)
    offset = layout.file_offset(start, size)
    assert (offset is not None) == all(backed(byte) for byte in span)
    if offset is not None:
        below = start if start < gpa.HOLE_START else start - gpa.HOLE_END + gpa.HOLE_START
        assert offset == below
        assert offset + size <= memory


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (2 * MIB + 1, "multiple of the page size"),
        (2 * MIB - PAGE_SIZE, "less than the minimum, 2 MiB"),
        (0, "less than the minimum"),
        (-PAGE_SIZE, "less than the minimum"),
    ],
)
def test_bad_sizes_are_refused(memory: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        MemoryLayout.of(memory)


@given(
    a=st.integers(0, 20), a_size=st.integers(0, 5), b=st.integers(0, 20), b_size=st.integers(0, 5)
)
def test_ranges_are_sets_of_bytes(a: int, a_size: int, b: int, b_size: int) -> None:
    first, second = GpaRange(a, a + a_size), GpaRange(b, b + b_size)
    bytes_of_first, bytes_of_second = set(range(a, a + a_size)), set(range(b, b + b_size))
    assert first.size == len(bytes_of_first)
    if a_size and b_size:
        assert first.overlaps(second) == bool(bytes_of_first & bytes_of_second)
        assert first.contains(b, b_size) == (bytes_of_second <= bytes_of_first)
