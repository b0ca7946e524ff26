# SPDX-License-Identifier: MIT
"""Exercises on real stages: not solved at their start, nor by wrong ways; by solutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trio

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.stage.stage import open_stage
from pyvmm.demo.telling.acts import Act, act_words, parse_act
from pyvmm.demo.telling.chapter import Exercise, Goal, StageKind
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.solving import Done, is_about_state, unmet

hosts = pytest.mark.parametrize(
    "host", [StageHost.MODEL, pytest.param(StageHost.KVM, marks=pytest.mark.kvm)]
)
exercises = pytest.mark.parametrize("exercise", BOOK.exercises, ids=lambda one: one.id)


def skip_what_no_kernel_has(exercise: Exercise, host: StageHost) -> None:
    if host is StageHost.KVM and exercise.setup.kind is StageKind.PRIVATE:
        pytest.skip("private memory on a kernel: in the lab")


def after(exercise: Exercise, ways: Sequence[Sequence[Act]], host: StageHost) -> list[Goal | None]:
    """What is unmet behind each way, every one on a stage of its own."""

    async def one(acts: Sequence[Act]) -> Goal | None:
        async with open_stage(exercise.setup, exercise.needs, host) as stage:
            for act in exercise.begins:
                outcome = await stage.do(act)
                assert not outcome.errno, act_words(act)
            done = []
            for act in acts:
                before = await stage.observe()
                done.append(Done(before, await stage.do(act)))
            return unmet(exercise, done, await stage.observe())

    async def main() -> list[Goal | None]:
        return [await one(acts) for acts in ways]

    return trio.run(main)


@exercises
@hosts
def test_only_what_solves_it_solves_it(exercise: Exercise, host: StageHost) -> None:
    skip_what_no_kernel_has(exercise, host)
    start, solved, *wrong = after(exercise, [(), exercise.solution, *exercise.wrong], host)
    assert start is not None
    assert solved is None
    assert None not in wrong


@exercises
def test_each_goal_can_be_missed(exercise: Exercise) -> None:
    parts = [exercise.solution[:count] for count in range(len(exercise.solution))]
    for goal in exercise.goals:
        alone = replace(exercise, goals=(goal,))
        assert goal in after(alone, [*parts, *exercise.wrong], StageHost.MODEL), goal.says


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
