# SPDX-License-Identifier: MIT
"""Linear ranges cut into what is adjacent in guest-physical memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.hosts.registers import Sregs
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_walk import LinearPart, linear_parts, walk

from .test_page_walk import LONG, Memory

PAGE = 0x1000
MOST = 1 << 23


def tables() -> Memory:
    """From 0 on: two adjacent pages, one elsewhere, none; from 2 MiB on two large pages."""
    memory = Memory()
    memory.put(0x1000, 0x2003)
    memory.put(0x2000, 0x3003)
    memory.put(0x3000, 0x4003)
    memory.put(0x3008, 0x60_0083)
    memory.put(0x3010, 0x80_0083)
    for index, gpa in enumerate((0x7000, 0x8000, 0x6000)):
        memory.put(0x4000 + 8 * index, gpa | 3)
    return memory


def parts(linear: int, size: int, most: int = MOST) -> list[LinearPart]:
    return list(linear_parts(tables().read, LONG, linear, size, most))


def test_adjacent_pages_are_one_part() -> None:
    assert parts(5, 3 * PAGE) == [
        LinearPart(5, 2 * PAGE - 5, 0x7005),
        LinearPart(2 * PAGE, PAGE, 0x6000),
        LinearPart(3 * PAGE, 5, None),
    ]


def test_large_pages_are_taken_whole_and_cut_at_the_most() -> None:
    start = (2 << 20) + 3
    whole = (4 << 20) - 3
    assert parts(start, whole) == [LinearPart(start, whole, 0x60_0003)]
    cut = parts(start, whole, most=3 << 20)
    assert [part.size for part in cut] == [(2 << 20) - 3, 2 << 20]
    assert [part.gpa for part in cut] == [0x60_0003, 0x80_0000]
    assert [part.size for part in parts(start, PAGE, most=1000)] == [1000] * 4 + [96]


def test_without_paging_there_is_nothing_to_cut() -> None:
    assert list(linear_parts(Memory().read, Sregs(), 5, 6 << 20, MOST)) == [
        LinearPart(5, 6 << 20, 5)
    ]


def test_nothing_has_no_parts_and_what_is_not_mapped_no_range() -> None:
    assert parts(0, 0) == []
    (part,) = parts(3 * PAGE, 2 * PAGE)
    assert part == LinearPart(3 * PAGE, 2 * PAGE, None)
    assert part.range.size == 0
    assert LinearPart(0, 5, 7).range == GpaRange(7, 12)


@given(
    linear=st.integers(0, 3 << 21), size=st.integers(0, 5 << 20), most=st.integers(1 << 12, 1 << 23)
)
def test_parts_are_the_walks_of_their_pages(linear: int, size: int, most: int) -> None:
    memory = tables()
    at = linear
    for part in linear_parts(memory.read, LONG, linear, size, most):
        assert part.linear == at
        assert 0 < part.size <= most
        for inside in {0, part.size // 2, part.size - 1}:
            found = walk(memory.read, LONG, at + inside).gpa
            assert found == (None if part.gpa is None else part.gpa + inside)
        at += part.size
    assert at == linear + size
