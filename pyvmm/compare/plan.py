# SPDX-License-Identifier: MIT
"""In which order who runs: one look at each, then rounds in which all take turns."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from pyvmm.compare.subjects import Subject


class RunKind(enum.Enum):
    """Purpose of a run."""

    INSPECT = "inspect"
    """To look at all that the guest did; not timed."""
    TIME = "time"
    """To know what it costs; nobody looks into it."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run; `round` counts the timed ones from 1 on, an inspection has 0."""

    kind: RunKind
    subject: Subject
    round: int


def inspections(subjects: Sequence[Subject]) -> tuple[PlannedRun, ...]:
    """One for each, in their order."""
    return tuple(PlannedRun(RunKind.INSPECT, subject, 0) for subject in subjects)


def timed_rounds(subjects: Sequence[Subject], rounds: int) -> tuple[PlannedRun, ...]:
    """`rounds` times each of them, alternating.

    Who was last in a round is first in the next one, so that nobody always follows the same one,
    and what changes slowly on the machine (its clock, its caches) meets all alike.
    """
    planned: list[PlannedRun] = []
    for number in range(1, rounds + 1):
        order = subjects if number % 2 else tuple(reversed(subjects))
        planned += [PlannedRun(RunKind.TIME, subject, number) for subject in order]
    return tuple(planned)
