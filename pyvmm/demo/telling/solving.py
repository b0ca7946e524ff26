# SPDX-License-Identifier: MIT
"""Tests of the reader's progress in an exercise: what was done on its stage, and its state now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyvmm.demo.telling.chapter import (
    AllOf,
    Bound,
    EndedWith,
    Exercise,
    Fact,
    Goal,
    Holds,
    IsAlive,
    NoneOf,
    ReportAgrees,
    ResidentAt,
    StateIs,
    is_true,
)
from pyvmm.demo.telling.outcomes import Observed, Outcome

_OF_STATE = (Bound, EndedWith, Holds, IsAlive, ReportAgrees, ResidentAt, StateIs)


@dataclass(frozen=True, slots=True)
class Done:
    """An act of the reader's: the stage's state before it, and what came of it."""

    before: Observed
    outcome: Outcome


def is_about_state(fact: Fact) -> bool:
    """Tell whether a fact is about a stage's state alone, and not about an act."""
    if isinstance(fact, AllOf | NoneOf):
        return all(is_about_state(one) for one in fact.facts)
    return isinstance(fact, _OF_STATE)


def unmet(exercise: Exercise, done: Sequence[Done], now: Observed) -> Goal | None:
    """The first goal that is not met; None: the exercise is solved.

    A fact with anything about acts in it is to be true of one act in `done`, those of the reader's;
    one about the state alone is to be true `now`, which is the state after the last of them.
    """
    still = Outcome((), (), 0, None, None, now, 0.0)
    for goal in exercise.goals:
        if is_about_state(goal.fact):
            met = is_true(goal.fact, still, now)
        else:
            met = any(is_true(goal.fact, one.outcome, one.before) for one in done)
        if not met:
            return goal
    return None
