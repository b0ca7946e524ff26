# SPDX-License-Identifier: MIT
"""The page map as people see it, and residency as values."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.memory.layout import GIB, MIB, GpaRange
from pyvmm.memory.page_map import CELLS, MOST_RUNS, page_map
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.memory.residency import Residency
from pyvmm.rules.abi import PAGE_SIZE
from tests.memory.test_regions import pages

P, S, W = PageState.PRIVATE, PageState.SHARED, PageState.WITHHELD
LEGEND = "P private, s shared, w withheld, + several, . no memory; all is "


def stripes(count: int) -> list[PageRun]:
    return [PageRun(pages(i, i + 1), (P, S)[i % 2]) for i in range(count)]


def listed(lines: list[str]) -> list[str]:
    return [line for line in lines if re.match(r"[0-9a-f]{10,}-", line)]


def test_a_small_map_is_this() -> None:
    runs = [
        PageRun(GpaRange(0, 0xA0000), P),
        PageRun(GpaRange(0xA0000, MIB), S),
        PageRun(GpaRange(3 * MIB, 4 * MIB), W),
    ]
    assert list(page_map(runs, 0xA1234)) == [
        "[" + "P" * 10 + "s" * 6 + "." * 32 + "w" * 16 + "]",
        " " * 11 + "^",
        LEGEND + "4 MiB",
        "0000000000-000009ffff       640 KiB  private",
        "00000a0000-00000fffff       384 KiB  shared  <- 0xa1234",
        "0000300000-00003fffff         1 MiB  withheld",
    ]


@pytest.mark.parametrize(
    ("mark", "place"), [(0, 0), (PAGE_SIZE - 1, 0), (2 * PAGE_SIZE, 1), (5 * PAGE_SIZE, 2)]
)
def test_a_mark_where_no_memory_is_has_a_line_in_its_place(mark: int, place: int) -> None:
    lines = list(page_map([PageRun(pages(1, 2), P), PageRun(pages(4, 5), S)], mark))
    found = lines[next(i for i, line in enumerate(lines) if line.startswith("P ")) + 1 :]
    expected = [
        "0000001000-0000001fff         4 KiB  private",
        "0000004000-0000004fff         4 KiB  shared",
    ]
    expected.insert(place, f"no memory  <- {mark:#x}")
    assert found == expected


def test_nothing_at_all() -> None:
    assert list(page_map([])) == ["no memory"]
    assert list(page_map([], 0x1000)) == ["no memory"]


@pytest.mark.parametrize(
    ("count", "mark", "before", "after"),
    [
        (MOST_RUNS, None, 0, 0),
        (MOST_RUNS + 1, None, 0, 1),
        (1000, None, 0, 960),
        (1000, 0, 0, 960),
        (1000, 999, 960, 0),
        (1000, 500, 481, 479),
    ],
)
def test_few_runs_of_many_are_listed(count: int, mark: int | None, before: int, after: int) -> None:
    lines = list(page_map(stripes(count), None if mark is None else mark * PAGE_SIZE))
    assert len(listed(lines)) == MOST_RUNS
    counted = {
        where: int(number)
        for line in lines
        for number, where in re.findall(r"^\.\.\. (\d+) more runs? (before|after) these$", line)
    }
    assert counted == {
        where: number for where, number in (("before", before), ("after", after)) if number
    }
    if mark is not None:
        marked = [line for line in lines if "<-" in line]
        assert [line.split("-")[0] for line in marked] == [f"{mark * PAGE_SIZE:010x}"]


def test_little_memory_far_away_is_still_seen() -> None:
    runs = [PageRun(GpaRange(0, 3 * GIB), P), PageRun(GpaRange(4 * GIB - PAGE_SIZE, 4 * GIB), S)]
    assert next(page_map(runs)) == "[" + "P" * 48 + "." * 15 + "s]"


def test_a_cell_with_more_than_one_state_says_so() -> None:
    runs = [
        PageRun(GpaRange(0, MIB), P),
        PageRun(GpaRange(MIB, MIB + PAGE_SIZE), S),
        PageRun(GpaRange(MIB + PAGE_SIZE, 64 * MIB), P),
    ]
    assert next(page_map(runs)) == "[P+" + "P" * 62 + "]"


@st.composite
def many_runs(draw: st.DrawFn) -> list[PageRun]:
    runs: list[PageRun] = []
    position = draw(st.integers(0, 1 << 39))
    for _ in range(draw(st.integers(1, 90))):
        size = draw(st.integers(1, 1 << draw(st.integers(0, 30))))
        runs.append(PageRun(pages(position, position + size), draw(st.sampled_from(PageState))))
        position += size + draw(st.sampled_from([0, 0, 1, 1 << 20]))
    return runs


@pytest.mark.slow
@settings(deadline=None)
@given(runs=many_runs(), data=st.data())
def test_any_map_is_bounded_and_points_at_its_mark_once(
    runs: list[PageRun], data: st.DataObject
) -> None:
    edges = [edge for run in runs for edge in (run.range.start, run.range.end)]
    mark = data.draw(
        st.one_of(
            st.none(),
            st.builds(
                lambda edge, by: max(edge + by, 0), st.sampled_from(edges), st.integers(-2, 2)
            ),
            st.integers(0, (1 << 64) - 1),
        )
    )
    lines = list(page_map(runs, mark))
    assert all(len(line) <= 100 and line.isascii() for line in lines)
    assert len(lines) <= MOST_RUNS + 6
    assert len(lines[0]) == CELLS + 2
    assert len(listed(lines)) == min(len(runs), MOST_RUNS)
    marked = [line for line in lines if "<-" in line]
    assert len(marked) == (mark is not None)
    if mark is not None:
        assert marked[0].endswith(f"<- {mark:#x}")
        holding = [run for run in runs if run.range.contains(mark, 1)]
        if holding:
            assert marked[0].startswith(f"{holding[0].range.start:010x}-")
            assert f"  {holding[0].state.value}  " in marked[0]
        else:
            assert marked[0].startswith("no memory")
        arrow = [line for line in lines if line.strip() == "^"]
        inside = edges[0] <= mark < edges[-1]
        assert len(arrow) == inside
        if arrow and holding:
            letter = {P: "P", S: "s", W: "w"}[holding[0].state]
            assert lines[0][arrow[0].index("^")] in (letter, "+")


def test_residency_as_plain_values() -> None:
    assert Residency("RAM", 1, 2, 3, 4).to_json() == {
        "what": "RAM",
        "shared_bytes": 1,
        "shared_resident": 2,
        "private_bytes": 3,
        "private_resident": 4,
    }
