# SPDX-License-Identifier: MIT
"""The table of memory regions: look-ups against a search, and what it does not take."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.errors import InternalError
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.regions import MemoryRegion, RegionTable
from pyvmm.rules.abi import PAGE_SIZE


def pages(start: int, end: int) -> GpaRange:
    return GpaRange(start * PAGE_SIZE, end * PAGE_SIZE)


def region(slot: int, start: int, end: int, can_be_private: bool = True) -> MemoryRegion:
    return MemoryRegion(slot, pages(start, end), can_be_private, f"region {slot}")


@st.composite
def tables(draw: st.DrawFn) -> RegionTable:
    """Up to 5 regions in the first 40 pages, with gaps and without."""
    table = RegionTable()
    position = 0
    for slot in range(draw(st.integers(0, 5))):
        start = position + draw(st.integers(0, 3))
        position = start + draw(st.integers(1, 4))
        table = table.with_region(region(slot, start, position, draw(st.booleans())))
    return table


@settings(deadline=None)
@given(table=tables(), first=st.integers(-3, 42), size=st.integers(-2, 42))
def test_parts_are_the_range_and_nothing_else(table: RegionTable, first: int, size: int) -> None:
    owner = {
        page: one
        for one in table.regions
        for page in range(one.range.start // PAGE_SIZE, one.range.end // PAGE_SIZE)
    }
    wanted = range(first, first + size)
    parts = table.parts(pages(first, first + size))
    if size <= 0 or not all(page in owner for page in wanted):
        assert parts is None
        return
    assert parts is not None
    position = first * PAGE_SIZE
    for one, part in parts:
        assert part.start == position
        assert part.size > 0
        assert one.range.contains(part.start, part.size)
        position = part.end
    assert position == (first + size) * PAGE_SIZE
    assert [one for one, _ in parts] == list(dict.fromkeys(owner[page] for page in wanted))


@settings(deadline=None)
@given(table=tables(), page=st.integers(-2, 42), offset=st.sampled_from([0, 1, PAGE_SIZE - 1]))
def test_at_agrees_with_a_search(table: RegionTable, page: int, offset: int) -> None:
    gpa = page * PAGE_SIZE + offset
    found = [one for one in table.regions if one.range.start <= gpa < one.range.end]
    assert table.at(gpa) == (found[0] if found else None)


@settings(deadline=None)
@given(table=tables(), data=st.data())
def test_a_region_goes_and_comes_back(table: RegionTable, data: st.DataObject) -> None:
    if not table.regions:
        return
    one = data.draw(st.sampled_from(table.regions))
    fewer = table.without(one)
    assert fewer.at(one.range.start) is None
    assert one in table.regions, "the first table is as it was"
    assert fewer.with_region(one) == table


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (region(9, 12, 12), "not a range of whole pages"),
        (region(9, 13, 12), "not a range of whole pages"),
        (region(9, -1, 2), "not a range of whole pages"),
        (MemoryRegion(9, GpaRange(1, PAGE_SIZE), True, "odd"), "not a range of whole pages"),
        (MemoryRegion(9, GpaRange(0, PAGE_SIZE + 1), True, "odd"), "not a range of whole pages"),
        (region(9, 19, 21), "not above"),
        (region(9, 9, 11), "not above"),
        (region(9, 12, 13), "not above"),
        (region(0, 40, 41), "two have the same slot"),
    ],
)
def test_what_a_table_does_not_take(new: MemoryRegion, words: str) -> None:
    table = RegionTable((region(0, 10, 20),))
    with pytest.raises(InternalError, match=words):
        table.with_region(new)


def test_regions_in_the_wrong_order_are_not_taken() -> None:
    with pytest.raises(InternalError, match="not above region 0"):
        RegionTable((region(0, 10, 20), region(1, 0, 5)))


def test_neighbours_are_two_regions() -> None:
    table = RegionTable((region(1, 10, 20),)).with_region(region(0, 0, 10))
    assert table.parts(pages(9, 11)) == (
        (table.regions[0], pages(9, 10)),
        (table.regions[1], pages(10, 11)),
    )


def test_only_what_is_there_can_go() -> None:
    with pytest.raises(InternalError, match="not there"):
        RegionTable().without(region(0, 0, 1))
