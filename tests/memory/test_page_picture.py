# SPDX-License-Identifier: MIT
"""The picture of a page map: pieces, residency, and marks of what changed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_picture import MOST_PIECES, picture_of
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.rules.abi import PAGE_SIZE

PRIVATE, SHARED = PageState.PRIVATE, PageState.SHARED


def pages(first: int, last: int) -> GpaRange:
    """Pages by their numbers, the last one exclusive."""
    return GpaRange(first * PAGE_SIZE, last * PAGE_SIZE)


def run(first: int, last: int, state: PageState) -> PageRun:
    return PageRun(pages(first, last), state)


def test_a_conversion_is_marked_where_it_was_and_nowhere_else() -> None:
    before = [run(0, 16, PRIVATE)]
    now = [run(0, 4, PRIVATE), run(4, 5, SHARED), run(5, 16, PRIVATE)]
    picture = picture_of(now, before)
    assert [(one.range, one.state, one.is_changed) for one in picture.pieces] == [
        (pages(0, 4), PRIVATE, False),
        (pages(4, 5), SHARED, True),
        (pages(5, 16), PRIVATE, False),
    ]
    changed = picture.pieces[1]
    assert picture.about(changed, changed.range) == (
        "0x4000: shared; changed in this step: was private"
    )
    assert picture.summary == ("1 page shared, 15 pages private, 1 page changed in this step")
    assert not picture.knows_residency


def test_memory_that_came_and_memory_that_went() -> None:
    picture = picture_of([run(8, 9, SHARED)], [run(0, 2, SHARED)])
    assert [(one.state, one.was, one.change) for one in picture.pieces] == [
        (None, SHARED, "was shared"),
        (SHARED, None, "new memory"),
    ]
    assert picture_of([], []).summary == "there is no memory"


def test_residency_cuts_pieces_and_is_told() -> None:
    now = [run(0, 8, PRIVATE)]
    held = [(Side.PRIVATE, pages(2, 4)), (Side.SHARED, pages(3, 8))]
    was = [(Side.PRIVATE, pages(2, 4))]
    picture = picture_of(now, None, held, was)
    assert picture.knows_residency
    assert [(one.pages, one.residency, one.change) for one in picture.pieces] == [
        (2, "nothing", ""),
        (1, "a page of the guest_memfd", ""),
        (
            1,
            "a page of the host's memory and a page of the guest_memfd",
            "a page of the host's memory is now held",
        ),
        (4, "a page of the host's memory", "a page of the host's memory is now held"),
    ]


def test_of_very_many_pieces_those_around_the_change_are_kept() -> None:
    striped = [run(number, number + 1, PRIVATE if number % 2 else SHARED) for number in range(4000)]
    now = list(striped)
    now[3000] = run(3000, 3001, PRIVATE)
    picture = picture_of(now, striped)
    assert len(picture.pieces) == MOST_PIECES
    assert picture.left_out == 4000 - MOST_PIECES
    assert [one.range for one in picture.pieces if one.is_changed] == [pages(3000, 3001)]


striped_runs = st.lists(st.sampled_from([PRIVATE, SHARED, PageState.WITHHELD, None]), max_size=12)


@given(striped_runs, striped_runs, st.sets(st.integers(0, 12)))
def test_every_page_is_in_the_piece_that_tells_its_state(
    now: list[PageState | None], was: list[PageState | None], resident: set[int]
) -> None:
    def runs(states: list[PageState | None]) -> list[PageRun]:
        return [run(at, at + 1, state) for at, state in enumerate(states) if state is not None]

    held = [(Side.PRIVATE, pages(at, at + 1)) for at in sorted(resident)]
    picture = picture_of(runs(now), runs(was), held)
    told = {
        at: (piece.state, piece.was, Side.PRIVATE in piece.held)
        for piece in picture.pieces
        for at in range(piece.range.start // PAGE_SIZE, piece.range.end // PAGE_SIZE)
    }
    for at in range(13):
        state = now[at] if at < len(now) else None
        old = was[at] if at < len(was) else None
        assert told.get(at) == ((state, old, at in resident) if state or old else None)
    for one, other in zip(picture.pieces, picture.pieces[1:], strict=False):
        assert one.range.end <= other.range.start
        alike = (one.state, one.was, one.held) == (other.state, other.was, other.held)
        assert not (alike and one.range.end == other.range.start)
