# SPDX-License-Identifier: MIT
"""Copies of pages, found by counting: which are there once, twice, or not at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.memory.copies import CopyRun, copy_runs, joined
from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE

PAGES = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)
BASE = 7


def counted(pages: list[tuple[bool, bool]], most: int) -> tuple[tuple[CopyRun, ...], int]:
    calls = 0

    def count(part: GpaRange) -> tuple[int, int]:
        nonlocal calls
        calls += 1
        first, last = part.start // PAGE_SIZE - BASE, part.end // PAGE_SIZE - BASE
        assert 0 <= first < last <= len(pages)
        asked = pages[first:last]
        return (
            sum(shared for shared, _ in asked) * PAGE_SIZE,
            sum(private for _, private in asked) * PAGE_SIZE,
        )

    whole = GpaRange(BASE * PAGE_SIZE, (BASE + len(pages)) * PAGE_SIZE)
    runs = copy_runs(whole, count, most)
    assert [run.range.start for run in runs] == [
        whole.start, *(run.range.end for run in runs[:-1])
    ]  # fmt: skip
    assert runs[-1].range.end == whole.end
    return runs, calls


@given(PAGES)
def test_every_page_is_found_as_it_is(pages: list[tuple[bool, bool]]) -> None:
    runs, _ = counted(pages, most=1000)
    found: list[tuple[bool, bool]] = []
    for run in runs:
        assert run.is_exact
        found += [(run.shared > 0, run.private > 0)] * (run.range.size // PAGE_SIZE)
    assert found == pages
    assert sum(run.twice for run in runs) == pages.count((True, True)) * PAGE_SIZE
    assert sum(run.holes for run in runs) == pages.count((False, False)) * PAGE_SIZE


@given(PAGES, st.integers(1, 12))
def test_few_counts_give_bounds(pages: list[tuple[bool, bool]], most: int) -> None:
    runs, calls = counted(pages, most)
    assert calls <= most
    assert sum(run.shared for run in runs) == sum(shared for shared, _ in pages) * PAGE_SIZE
    assert sum(run.private for run in runs) == sum(private for _, private in pages) * PAGE_SIZE
    assert sum(run.twice for run in runs) <= pages.count((True, True)) * PAGE_SIZE
    assert sum(run.holes for run in runs) <= pages.count((False, False)) * PAGE_SIZE


def test_pages_alike_are_counted_at_once() -> None:
    assert counted([(True, False)] * 40, most=1000) == (
        (CopyRun(GpaRange(BASE * PAGE_SIZE, (BASE + 40) * PAGE_SIZE), 40 * PAGE_SIZE, 0),), 1,
    )  # fmt: skip


def test_runs_of_two_pieces_are_joined_where_the_same_is_known_of_them() -> None:
    def run(first: int, last: int, shared: int, private: int) -> CopyRun:
        range_ = GpaRange(first * PAGE_SIZE, last * PAGE_SIZE)
        return CopyRun(range_, shared * PAGE_SIZE, private * PAGE_SIZE)

    parts = [run(0, 2, 2, 0), run(2, 4, 2, 0), run(4, 6, 1, 0), run(6, 8, 1, 0), run(8, 9, 1, 1)]
    assert list(joined(parts)) == [run(0, 4, 4, 0), *parts[2:]]
