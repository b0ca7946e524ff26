# SPDX-License-Identifier: MIT
"""The drawn page map: nothing lies on anything else, whatever memory there is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.demo.page import page_cells
from pyvmm.demo.page.page_cells import MOST_CELLS, overlaps, placed_map, short_count
from pyvmm.demo.page.page_map import svg_of
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_picture import PagePicture, picture_of
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.rules.abi import PAGE_SIZE
from tests.demo.page.html_tree import tree


def run(first: int, last: int, state: PageState) -> PageRun:
    return PageRun(GpaRange(first * PAGE_SIZE, last * PAGE_SIZE), state)


sizes = st.sampled_from([1, 2, 3, 5, 16, 31, 32, 33, 4096, 1 << 20, 1 << 40])
pieces = st.tuples(sizes, st.sampled_from([None, *PageState]), st.booleans())


@st.composite
def pictures(draw: st.DrawFn) -> PagePicture:
    runs: list[list[PageRun]] = [[], []]
    held = []
    for states in (0, 1):
        at = draw(st.sampled_from([0, 256, 1 << 20]))
        for pages, state, resident in draw(st.lists(pieces, max_size=40)):
            if state is not None:
                runs[states].append(run(at, at + pages, state))
            if resident and not states:
                held.append((Side.PRIVATE, GpaRange(at * PAGE_SIZE, (at + pages) * PAGE_SIZE)))
            at += pages
    return picture_of(runs[0], draw(st.sampled_from([None, runs[1]])), held)


@given(pictures())
def test_nothing_lies_on_anything(picture: PagePicture) -> None:
    placed = placed_map(picture)
    assert overlaps(placed) == ()
    cells = [cell for row in placed.rows for cell in row]
    assert len(cells) <= MOST_CELLS
    # Cells are the pictures' pieces, whole and in order.
    drawn = [piece for piece in picture.pieces if any(cell.piece is piece for cell in cells)]
    assert len(drawn) == len(picture.pieces) - placed.left_out + picture.left_out
    for piece in drawn:
        ranges = [cell.range for cell in cells if cell.piece is piece]
        assert (ranges[0].start, ranges[-1].end) == piece.range
        assert all(a.end == b.start for a, b in pairwise(ranges))
    element = tree(svg_of(placed, "Pages", "pages"))
    titles = [one.text for one in element.walk() if one.name == "title"]
    assert titles == [cell.about for cell in cells]


def test_more_pieces_than_there_is_room_for_are_counted() -> None:
    runs = [
        run(3 * number + page, 3 * number + page + 1, state)
        for number in range(300)
        for page, state in enumerate((PageState.PRIVATE, PageState.SHARED))
    ]
    placed = placed_map(picture_of(runs))
    assert sum(map(len, placed.rows)) == MOST_CELLS
    assert placed.left_out == 600 - MOST_CELLS


def test_the_check_sees_what_lies_on_something(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = picture_of(
        [run(0, 20, PageState.PRIVATE)],
        [run(0, 2, PageState.SHARED)],
        [(Side.PRIVATE, GpaRange(0, PAGE_SIZE))],
    )
    placed = placed_map(picture)
    cell = placed.rows[0][0]
    heading = placed.headings[0]
    on_text = replace(placed, headings=(heading, replace(heading, x=heading.x + 3)))
    assert any("on '0x0" in one for one in overlaps(on_text))
    on_cell = replace(placed, headings=(replace(heading, y=cell.rect.y + 9),))
    assert any("on a cell" in one for one in overlaps(on_cell))
    letter = cell.texts[0]
    outside = replace(cell, texts=(replace(letter, x=cell.rect.x - 1), *cell.texts[1:]))
    assert any("leaves it" in one for one in overlaps(replace(placed, rows=((outside,),))))
    twice = replace(cell, texts=(letter, letter))
    assert any("signs" in one for one in overlaps(replace(placed, rows=((twice,),))))
    assert any(" on '0x0" in one for one in overlaps(replace(placed, rows=((cell, cell),))))
    monkeypatch.setattr(page_cells, "_HEIGHT", 20.0)
    assert overlaps(placed_map(picture))


def test_counts_fit_into_their_cell() -> None:
    for count in (33, 65_536, 99_999_999, 100_000_000, 1 << 40, 1 << 52):
        assert len(short_count(count)) <= 9
    assert short_count(3840) == "x3840"
