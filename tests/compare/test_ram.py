# SPDX-License-Identifier: MIT
"""RAM page by page."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.compare.ram import (
    ABOVE,
    IMAGE,
    LOW,
    REST,
    PageCounts,
    RamRegion,
    compare_pages,
    digests,
    regions_of,
)
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import GIB, MIB, GpaRange
from pyvmm.rules.abi import PAGE_SIZE

PAGES = 130
REGION = RamRegion("all", GpaRange(GIB, GIB + PAGES * PAGE_SIZE), 0)
"""More than one chunk, and not a multiple of one."""


def reading(data: bytes):  # type: ignore[no-untyped-def]
    return lambda offset, size: data[offset : offset + size]


def ram(pages: dict[int, int]) -> bytes:
    """RAM that is zero but for these pages, which end with that byte."""
    data = bytearray(PAGES * PAGE_SIZE)
    for page, value in pages.items():
        data[(page + 1) * PAGE_SIZE - 1] = value
    return bytes(data)


CONTENTS = st.dictionaries(st.integers(0, PAGES - 1), st.integers(0, 2), max_size=20)


@settings(max_examples=40)
@given(CONTENTS, CONTENTS)
def test_every_page_is_counted_once_and_rightly(
    ours: dict[int, int], theirs: dict[int, int]
) -> None:
    found = compare_pages(reading(ram(ours)), reading(ram(theirs)), REGION)
    pairs = [(ours.get(page, 0), theirs.get(page, 0)) for page in range(PAGES)]
    assert found.same == sum(a == b for a, b in pairs)
    assert found.only_reference == sum(a != b and not b for a, b in pairs)
    assert found.only_other == sum(a != b and not a for a, b in pairs)
    assert found.different == sum(bool(a != b and a and b) for a, b in pairs)
    assert found.same + found.differing == PAGES
    differing = [GIB + page * PAGE_SIZE for page, (a, b) in enumerate(pairs) if a != b]
    assert list(found.samples) == differing[: len(found.samples)]
    assert len(found.samples) == min(4, len(differing))


def test_equal_ram_has_nothing_to_show() -> None:
    assert compare_pages(reading(ram({})), reading(ram({})), REGION) == PageCounts(same=PAGES)


@settings(max_examples=15)
@given(CONTENTS)
def test_digests_are_sha256(contents: dict[int, int]) -> None:
    data = ram(contents)
    border = 70 * PAGE_SIZE
    first = RamRegion("a", GpaRange(0, border), 0)
    second = RamRegion("b", GpaRange(border, len(data)), border)
    whole, parts = digests(reading(data), (first, second))
    assert whole == hashlib.sha256(data).hexdigest()
    assert parts == tuple(
        hashlib.sha256(part).hexdigest() for part in (data[:border], data[border:])
    )


@pytest.mark.parametrize(
    ("memory", "image_end", "names"),
    [
        (2 * MIB, 0x10_5000, [LOW, IMAGE]),
        (16 * MIB, 0x10_5000, [LOW, IMAGE, REST]),
        (16 * MIB, 16 * MIB, [LOW, IMAGE]),
        (16 * MIB, 0, [LOW, IMAGE, REST]),
        (4 * GIB, 0x10_5000, [LOW, IMAGE, REST, ABOVE]),
    ],
)
def test_regions_cover_all_of_ram_once(memory: int, image_end: int, names: list[str]) -> None:
    layout = AddressMap.of(memory)
    regions = regions_of(layout, image_end)
    assert [one.name for one in regions] == names
    offset = 0
    for one in regions:
        assert one.offset == offset == layout.file_offset(one.range.start, one.range.size)
        assert one.range.size > 0
        offset += one.range.size
    assert offset == memory
    assert regions[1].range.end >= image_end
