# SPDX-License-Identifier: MIT
"""Exercises on real stages: not solved at their start, nor by wrong ways; by solutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import pytest
import trio

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.stage.stage import open_stage
from pyvmm.demo.telling.acts import Act, act_words, parse_act
from pyvmm.demo.telling.chapter import Exercise, Need, StageKind
from pyvmm.demo.telling.outcomes import Observed, StageHost
from pyvmm.demo.telling.solving import Done, is_about_state, unmet

_PRIVATE = [one for one in BOOK.exercises if one.setup.kind is StageKind.PRIVATE]
exercises = pytest.mark.parametrize(
    "exercise",
    [
        pytest.param(one, marks=[pytest.mark.slow] if one in _PRIVATE else [], id=one.id)
        for one in BOOK.exercises
    ],
)
_ON_ANY_KERNEL = [one for one in BOOK.exercises if not one.needs & {Need.PRIVATE, Need.IN_PLACE}]


@dataclass(frozen=True)
class Way:
    """What was done on a stage of its own, and how the stage was then."""

    done: tuple[Done, ...]
    now: Observed


@cache
def walked(exercise: Exercise, host: StageHost) -> tuple[Way, ...]:
    """Every beginning of the solution, the solution, and then the wrong ways."""

    async def one(acts: Sequence[Act]) -> Way:
        async with open_stage(exercise.setup, exercise.needs, host) as stage:
            for act in exercise.begins:
                outcome = await stage.do(act)
                assert not outcome.errno, act_words(act)
            done = []
            for act in acts:
                before = await stage.observe()
                done.append(Done(before, await stage.do(act)))
            return Way(tuple(done), await stage.observe())

    async def main() -> tuple[Way, ...]:
        ways = [await one(exercise.solution)]
        ways += [await one(acts) for acts in exercise.wrong]
        solved = ways[0]
        states = [one.before for one in solved.done]
        parts = [Way(solved.done[:count], state) for count, state in enumerate(states)]
        return (*parts, *ways)

    return trio.run(main)


def check(exercise: Exercise, host: StageHost) -> None:
    first = [unmet(exercise, way.done, way.now) for way in walked(exercise, host)]
    solved = len(exercise.solution)
    assert [number for number, goal in enumerate(first) if goal is None] == [solved]


@exercises
def test_only_what_solves_it_solves_it(exercise: Exercise) -> None:
    check(exercise, StageHost.MODEL)


@pytest.mark.parametrize("exercise", _ON_ANY_KERNEL, ids=lambda one: one.id)
@pytest.mark.kvm
def test_only_what_solves_it_solves_it_on_this_kernel(exercise: Exercise) -> None:
    check(exercise, StageHost.KVM)


@pytest.mark.parametrize("exercise", _PRIVATE, ids=lambda one: one.id)
@pytest.mark.kvm
@pytest.mark.slow
def test_only_what_solves_it_solves_it_where_memory_is_private(
    exercise: Exercise, private_host: None
) -> None:
    check(exercise, StageHost.KVM)


@exercises
def test_each_goal_can_be_missed(exercise: Exercise) -> None:
    ways = walked(exercise, StageHost.MODEL)
    for goal in exercise.goals:
        alone = replace(exercise, goals=(goal,))
        assert any(unmet(alone, way.done, way.now) for way in ways), goal.says


def test_exercises_have_what_a_reader_needs() -> None:
    assert [one.number for one in BOOK.exercises] == sorted({one.number for one in BOOK.exercises})
    assert len({one.id for one in BOOK.exercises}) == len(BOOK.exercises)
    by_chapter = [one.exercise for one in BOOK.chapters if one.exercise]
    assert by_chapter == [one.number for one in BOOK.exercises]
    for one in BOOK.exercises:
        assert len(set(one.hints)) == 3
        assert len(one.wrong) >= 2
        assert one.task.endswith(".")
        for act in (*one.begins, *one.solution, *(act for way in one.wrong for act in way)):
            assert parse_act(act_words(act)) == act
        for goal in one.goals:
            assert not goal.says.endswith("."), goal.says


def test_facts_of_the_state_are_told_from_those_of_acts() -> None:
    kinds = {is_about_state(goal.fact) for one in BOOK.exercises for goal in one.goals}
    assert kinds == {True, False}
