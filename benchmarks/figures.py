# SPDX-License-Identifier: MIT
"""From samples to what is reported: medians, spreads, ratios of pairs, targets. Pure."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Sample = Mapping[str, float]
"""One measurement of one subject: figure to value. The unit is the end of the figure's name."""


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the ends of some values."""

    median: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Raises `ValueError` where there are no values."""
        if not values:
            raise ValueError("no values to take the median of")
        return cls(statistics.median(values), min(values), max(values), len(values))


def pair_ratios(baseline: Sequence[float], subject: Sequence[float]) -> list[float]:
    """subject / baseline of every pair: the i-th of each were measured next to each other.

    Raises `ValueError` where they are not pairs, or a baseline is not above 0.
    """
    if len(baseline) != len(subject):
        raise ValueError(f"{len(baseline)} baselines and {len(subject)} subjects are no pairs")
    if any(value <= 0 for value in baseline):
        raise ValueError("a baseline of 0 or less has no ratio")
    return [two / one for one, two in zip(baseline, subject, strict=True)]


def column(samples: Sequence[Sample], figure: str) -> list[float]:
    """One figure of every sample that has it."""
    return [sample[figure] for sample in samples if figure in sample]


class Side(enum.Enum):
    """On which side of a target a ratio has to be."""

    AT_LEAST = ">="
    AT_MOST = "<="


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio shall be; limits are inclusive."""

    side: Side
    limit: float

    def is_met(self, ratio: float) -> bool:
        """Whether `ratio` is on the right side."""
        return ratio >= self.limit if self.side is Side.AT_LEAST else ratio <= self.limit

    def __str__(self) -> str:
        return f"{self.side.value} {self.limit:.2f}"


def at_least(limit: float) -> Target:
    """For rates."""
    return Target(Side.AT_LEAST, limit)


def at_most(limit: float) -> Target:
    """For times and sizes."""
    return Target(Side.AT_MOST, limit)
