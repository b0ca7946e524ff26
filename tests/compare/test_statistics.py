# SPDX-License-Identifier: MIT
"""Medians, quartiles, ratios, and the order of the runs."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.compare.plan import RunKind, inspections, timed_rounds
from pyvmm.compare.statistics import ratios, spread_of
from tests.compare.samples import MODEL, OURS, qemu

VALUES = st.lists(st.floats(0, 1e9), min_size=1, max_size=30)


@given(VALUES)
def test_a_spread_is_ordered_and_leaves_a_quarter_on_each_side(values: list[float]) -> None:
    spread = spread_of(values)
    assert spread is not None
    assert spread.least <= spread.low <= spread.median <= spread.high <= spread.most
    assert (spread.least, spread.most, spread.count) == (min(values), max(values), len(values))
    quarter = -(-(len(values) - 1) // 4)
    assert sum(value < spread.low for value in values) <= quarter
    assert sum(value > spread.high for value in values) <= quarter


@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=30))
def test_quartiles_are_those_of_the_library(values: list[float]) -> None:
    spread = spread_of(values)
    assert spread is not None
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    assert math.isclose(spread.low, low)
    assert math.isclose(spread.high, high)


def test_nothing_has_no_spread() -> None:
    assert spread_of([]) is None


def test_ratios_are_taken_round_by_round() -> None:
    # The second round was slow for both: that is nobody's ratio.
    found = ratios({1: 2.0, 2: 200.0, 3: 2.0}, {1: 1.0, 2: 100.0, 3: 1.0})
    assert found is not None
    assert (found.median, found.least, found.most, found.count) == (2.0, 2.0, 2.0, 3)


@pytest.mark.parametrize(("theirs", "count"), [({1: 4.0}, 1), ({1: 4.0, 2: 0.0}, 1)])
def test_rounds_without_a_partner_are_left_out(theirs: dict[int, float], count: int) -> None:
    found = ratios({1: 2.0, 2: 1.0}, theirs)
    assert found is not None
    assert (found.median, found.count) == (0.5, count)


def test_no_common_round_has_no_ratio() -> None:
    assert ratios({1: 1.0}, {2: 1.0}) is None


SUBJECTS = (OURS, MODEL, qemu())


def test_each_is_looked_at_once() -> None:
    planned = inspections(SUBJECTS)
    assert [one.subject for one in planned] == list(SUBJECTS)
    assert {one.kind for one in planned} == {RunKind.INSPECT}


@given(st.integers(0, 20), st.integers(1, 3))
def test_rounds_alternate(rounds: int, count: int) -> None:
    subjects = SUBJECTS[:count]
    planned = timed_rounds(subjects, rounds)
    assert len(planned) == rounds * count
    by_round = [planned[at : at + count] for at in range(0, len(planned), count)]
    for number, these in enumerate(by_round, 1):
        assert {one.round for one in these} == {number}
        assert {one.subject for one in these} == set(subjects)
    # Nobody always follows the same one.
    for earlier, later in pairwise(by_round):
        assert [one.subject for one in later] == [one.subject for one in reversed(earlier)]
