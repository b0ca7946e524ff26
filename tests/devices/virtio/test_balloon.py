# SPDX-License-Identifier: MIT
"""A balloon's numbers: what chains carry, whatever the guest writes there."""

from __future__ import annotations

import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.balloon import (
    MOST_NUMBERS,
    BalloonFeature,
    BalloonModel,
    Role,
    page_ranges,
    statistics,
    whole_pages,
)
from pyvmm.rules.abi import PAGE_SIZE


def views(data: bytes, *cuts: int) -> list[memoryview]:
    """`data` in parts."""
    ends = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [memoryview(data)[a:b] for a, b in pairwise(ends)]


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=30), st.lists(st.integers(0, 200)))
def test_ranges_are_the_pages_in_the_order_of_their_numbers(
    numbers: list[int], cuts: list[int]
) -> None:
    data = struct.pack(f"<{len(numbers)}I", *numbers)
    found = page_ranges(views(data + b"\xff\xff", *cuts))
    pages = [
        page for gpa, size in found for page in range(gpa // PAGE_SIZE, (gpa + size) // PAGE_SIZE)
    ]
    assert sorted(pages) == sorted(numbers)


def test_neighbours_are_joined_upwards_and_downwards_and_no_more_are_looked_at() -> None:
    up = struct.pack("<5I", 7, 8, 9, 3, 2)
    assert page_ranges(views(up)) == [
        (7 * PAGE_SIZE, 3 * PAGE_SIZE),
        (2 * PAGE_SIZE, 2 * PAGE_SIZE),
    ]
    many = struct.pack("<I", 1) + bytes(4 * MOST_NUMBERS)
    found = page_ranges(views(many, 8, 12))
    assert sum(size for _, size in found) == MOST_NUMBERS * PAGE_SIZE


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 20))))
def test_whole_pages_lie_within(ranges: list[tuple[int, int]]) -> None:
    for gpa, size in ranges:
        for first, length in whole_pages([(gpa, size)]):
            assert first % PAGE_SIZE == length % PAGE_SIZE == 0
            assert length
            assert gpa <= first < first + length <= gpa + size
    assert not list(whole_pages([(1, PAGE_SIZE)]))


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000)))
def test_any_bytes_are_statistics_or_nothing(data: bytes, cuts: list[int]) -> None:
    assert len(statistics(views(data, *cuts))) <= 10


def test_statistics_by_name() -> None:
    data = b"".join(
        struct.pack("<HQ", tag, value) for tag, value in ((4, 77), (5, (1 << 64) - 1), (99, 1))
    )
    assert statistics(views(data + b"\0", 3)) == {"free-memory": 77}


def test_queues_are_numbered_by_what_the_driver_takes() -> None:
    model = BalloonModel()

    def roles(features: int) -> list[Role | None]:
        assert model.accept(features)
        return [model.role(number) for number in range(4)]

    both = [Role.INFLATE, Role.DEFLATE]
    assert roles(0) == [*both, None, None]
    assert roles(BalloonFeature.REPORTING) == [*both, Role.REPORTING, None]
    everything = model.features
    assert roles(everything) == [*both, Role.STATISTICS, Role.REPORTING]
    model.reset()
    assert model.role(2) is None


def test_the_driver_writes_its_own_number_whole_and_no_other() -> None:
    model = BalloonModel()
    model.target = 9
    model.write_config(4, struct.pack("<I", 5))
    model.write_config(0, struct.pack("<I", 1))
    model.write_config(4, b"\xff")
    assert model.config() == struct.pack("<II", 9, 5)
    saved = model.save()
    model.reset()
    assert model.config() == struct.pack("<II", 9, 0)
    model.restore(saved)
    assert model.actual == 5
