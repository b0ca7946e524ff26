# SPDX-License-Identifier: MIT
"""Medians, spread, and ratios of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """A sample: its median, its quartiles, its extremes, and how many values it has (at least 1).

    About a quarter of the values lie below `low`, about a quarter above `high`.
    """

    median: float
    low: float
    high: float
    least: float
    most: float
    count: int


def spread_of(values: Sequence[float]) -> Spread | None:
    """None for no values."""
    if not values:
        return None
    ordered = sorted(values)
    return Spread(
        median=median(ordered),
        low=_quantile(ordered, 0.25),
        high=_quantile(ordered, 0.75),
        least=ordered[0],
        most=ordered[-1],
        count=len(ordered),
    )


def _quantile(ordered: Sequence[float], part: float) -> float:
    """Between the two values next to it, as most tools do (Hyndman and Fan's type 7)."""
    at = (len(ordered) - 1) * part
    below, above = ordered[math.floor(at)], ordered[math.ceil(at)]
    # Never outside of the two, whatever rounding does.
    return min(max(below + (above - below) * (at - math.floor(at)), below), above)


def ratios(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
    """Ours by theirs, round by round; rounds that only one has, or with 0 below, are left out.

    The ratio of each round and then the median: a slow moment of the machine spoils one ratio, not
    the comparison.
    """
    return spread_of([ours[one] / theirs[one] for one in ours if theirs.get(one)])


def number(value: float) -> str:
    """A figure with as many digits as mean something."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def counted(count: int, what: str) -> str:
    """A number of things in words: 1 line, 2 lines."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
