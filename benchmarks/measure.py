# SPDX-License-Identifier: MIT
"""Measuring: subjects that take turns, and what a benchmark hands back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import Sample, Spread, Target, column, pair_ratios


class CannotRunError(Exception):
    """A benchmark cannot run here: one line that says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something measured: `sample` does it once and returns the figures."""

    name: str
    what: str
    sample: Callable[[], Sample]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`subject` over `baseline` in one figure. Without a target it is for information."""

    figure: str
    subject: str
    baseline: str
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """More to know: a title, and rows of a label, a value and a remark."""

    title: str
    rows: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to measure: `runs` rounds, each of its full size times `scale`."""

    runs: int
    scale: float

    def scaled(self, amount: int) -> int:
        """`amount`, but at least 1, for this effort."""
        return max(1, int(amount * self.scale))


Step = Callable[[str, int, int], None]
"""Called as a benchmark goes on: what is done now, how much is done, how much there is."""


@dataclass(slots=True)
class Result:
    """What one benchmark has found."""

    name: str
    title: str
    subjects: Sequence[Subject]
    samples: dict[str, list[Sample]]
    comparisons: Sequence[Comparison]
    tables: list[Table] = field(default_factory=list)

    def spread(self, subject: str, figure: str) -> Spread:
        """Of one figure over all rounds."""
        return Spread.of(column(self.samples[subject], figure))

    def ratio(self, comparison: Comparison) -> Spread | None:
        """Of the ratios of pairs.

        Where a coarse clock gave 0 for a baseline there are no pairs: then the one ratio of the
        sums (count 1), or None where all baselines are 0.
        """
        baseline = column(self.samples[comparison.baseline], comparison.figure)
        subject = column(self.samples[comparison.subject], comparison.figure)
        if min(baseline) <= 0:
            return Spread.of([sum(subject) / sum(baseline)]) if sum(baseline) > 0 else None
        return Spread.of(pair_ratios(baseline, subject))

    def to_json(self) -> dict[str, Any]:
        """Everything, the single samples included."""
        return {
            "title": self.title,
            "subjects": {one.name: self._subject_json(one) for one in self.subjects},
            "comparisons": [self._comparison_json(one) for one in self.comparisons],
            "tables": [
                {"title": table.title, "rows": [list(row) for row in table.rows]}
                for table in self.tables
            ],
        }

    def figures_of(self, subject: str) -> list[str]:
        """The figures that a subject has."""
        return list(self.samples[subject][0])

    def _subject_json(self, subject: Subject) -> dict[str, Any]:
        figures = {}
        for figure in self.figures_of(subject.name):
            spread = self.spread(subject.name, figure)
            figures[figure] = _spread_json(spread) | {
                "samples": column(self.samples[subject.name], figure)
            }
        return {"what": subject.what, "figures": figures}

    def _comparison_json(self, comparison: Comparison) -> dict[str, Any]:
        ratio = self.ratio(comparison)
        target = comparison.target
        return {
            "figure": comparison.figure,
            "subject": comparison.subject,
            "baseline": comparison.baseline,
            "ratio": None if ratio is None else _spread_json(ratio),
            "target": None if target is None else str(target),
            "met": None if target is None or ratio is None else target.is_met(ratio.median),
        }


def _spread_json(spread: Spread) -> dict[str, float]:
    return {
        "median": spread.median,
        "min": spread.least,
        "max": spread.most,
        "count": spread.count,
    }


def take_turns(subjects: Sequence[Subject], effort: Effort, step: Step) -> dict[str, list[Sample]]:
    """`effort.runs` rounds, in each of which every subject is measured once, in the same order.

    So the i-th samples of all were taken next to each other, and whatever else the machine is busy
    with meets them alike. A first round is the warm-up and is thrown away.
    """
    samples: dict[str, list[Sample]] = {subject.name: [] for subject in subjects}
    total = (effort.runs + 1) * len(subjects)
    done = 0
    for turn in range(effort.runs + 1):
        for subject in subjects:
            step(subject.name if turn else f"{subject.name} (warm-up)", done, total)
            sample = subject.sample()
            if turn:
                samples[subject.name].append(sample)
            done += 1
    step("done", total, total)
    return samples
