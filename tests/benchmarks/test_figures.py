# SPDX-License-Identifier: MIT
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Spread, Target, at_least, at_most, column, pair_ratios

values = st.lists(st.floats(min_value=1e-6, max_value=1e9), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [
        ([3.0], Spread(3.0, 3.0, 3.0, 1)),
        ([5.0, 1.0, 3.0], Spread(3.0, 1.0, 5.0, 3)),
        ([4.0, 1.0, 3.0, 2.0], Spread(2.5, 1.0, 4.0, 4)),
        ([1.0, 1.0, 1000.0], Spread(1.0, 1.0, 1000.0, 3)),
    ],
)
def test_a_spread_is_the_middle_and_the_ends(given_values: list[float], expected: Spread) -> None:
    assert Spread.of(given_values) == expected


def test_no_values_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


@given(values)
def test_the_median_lies_between_the_ends(given_values: list[float]) -> None:
    spread = Spread.of(given_values)
    assert spread.least <= spread.median <= spread.most
    assert spread.count == len(given_values)


def test_ratios_are_of_pairs_in_order() -> None:
    assert pair_ratios([1.0, 2.0, 4.0], [2.0, 2.0, 1.0]) == [2.0, 1.0, 0.25]


def test_noise_that_meets_both_of_a_pair_cancels_out() -> None:
    # The machine was ten times slower in the second round.
    assert pair_ratios([1.0, 10.0, 1.0], [2.0, 20.0, 2.0]) == [2.0, 2.0, 2.0]


@given(values)
def test_a_subject_that_equals_its_baseline_has_ratio_one(given_values: list[float]) -> None:
    assert pair_ratios(given_values, given_values) == [1.0] * len(given_values)


@pytest.mark.parametrize(
    ("baseline", "subject", "message"),
    [
        ([1.0], [1.0, 2.0], "no pairs"),
        ([1.0, 0.0], [1.0, 1.0], "0 or less"),
        ([-1.0], [1.0], "0 or less"),
    ],
)
def test_what_is_no_pair_is_refused(
    baseline: list[float], subject: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pair_ratios(baseline, subject)


@pytest.mark.parametrize(
    ("target", "ratio", "met"),
    [
        (at_least(0.9), 0.9, True),
        (at_least(0.9), 0.89, False),
        (at_least(0.9), 1.2, True),
        (at_most(2.0), 2.0, True),
        (at_most(2.0), 2.01, False),
        (at_most(2.0), 0.5, True),
    ],
)
def test_a_limit_itself_meets_the_target(target: Target, ratio: float, met: bool) -> None:
    assert target.is_met(ratio) is met


def test_a_target_reads_as_a_relation() -> None:
    assert str(at_least(0.9)) == ">= 0.90"
    assert str(at_most(4)) == "<= 4.00"


def test_a_column_leaves_out_samples_without_the_figure() -> None:
    assert column([{"a": 1.0}, {"b": 2.0}, {"a": 3.0}], "a") == [1.0, 3.0]
