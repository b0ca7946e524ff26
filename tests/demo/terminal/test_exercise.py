# SPDX-License-Identifier: MIT
"""Exercises as lines: what is typed, what is said, and how it ends."""

from __future__ import annotations

import errno

import pytest
import trio

from pyvmm.cli.main import main
from pyvmm.demo.chapters import BOOK
from pyvmm.demo.exercising import Exercising
from pyvmm.demo.house.here import ReadingHere
from pyvmm.demo.telling.acts import MakeVm, SetSlot, act_words
from pyvmm.demo.telling.chapter import Exercise, Goal, Holds, RefusedWith
from pyvmm.demo.telling.links import exercise_named
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.terminal.exercise import Solving
from pyvmm.errors import UsageError

from ...cli.command import pyvmm

TWO = Exercise(
    number=3,
    id="two-vms",
    task="Have a slot refused, and two VMs.",
    hints=("Make one.", "make-vm 1", "There is no third way."),
    needs=frozenset(),
    begins=(MakeVm(0), SetSlot(0, 0, 0x1000, 0x1000)),
    goals=(
        Goal("no slot was refused", RefusedWith(errno.EINVAL)),
        Goal("there are not two VMs", Holds("vm", 2)),
    ),
    solution=(),
    wrong=(),
)


def solved(*lines: str, exercise: Exercise = TWO) -> tuple[bool, str]:
    """Whether these lines solve it on the model, and all that was written."""
    typed = iter(lines)
    written: list[str] = []

    async def ask(prompt: str) -> str | None:
        assert prompt
        return next(typed, None)

    async def played() -> bool:
        async with trio.open_nursery() as nursery:
            reading = ReadingHere(nursery, StageHost.MODEL)
            attempt = Exercising(exercise, reading)
            result = await Solving(attempt, written.append, 80).solve(ask)
            nursery.cancel_scope.cancel()
        return result

    return trio.run(played), "\n".join(written)


def test_it_is_solved_when_all_goals_are_met_and_not_before() -> None:
    done, text = solved("set-slot 0 1 0 1", "make-vm 1", "never asked for")
    assert done
    assert text.startswith(
        "Exercise 3, two-vms - on the model\n\nHave a slot refused, and two VMs."
    )
    assert text.count("not yet: ") == 1
    assert "not yet: there are not two VMs" in text
    assert text.endswith("SOLVED: all that was asked for is true of the machine")
    assert "never" not in text


@pytest.mark.parametrize("last", [(), ("q",)])
def test_the_end_of_the_lines_names_the_first_goal_that_is_not_met(last: tuple[str, ...]) -> None:
    done, text = solved("make-vm 1", *last)
    assert not done
    assert text.endswith("NOT SOLVED: no slot was refused")


def test_after_a_reset_nothing_that_was_done_counts() -> None:
    done, text = solved("set-slot 0 1 0 1", "r", "make-vm 1")
    assert not done
    assert text.count("Exercise 3") == 2
    assert text.endswith("NOT SOLVED: no slot was refused")
    assert solved("r", "make-vm 1", "set-slot 0 1 0 1")[0]


def test_hints_in_their_order_the_last_one_again_and_again() -> None:
    _, text = solved("h", "h", "h", "h")
    assert "hint 1 of 3: Make one.\nhint 2 of 3: make-vm 1\nhint 3 of 3:" in text
    assert text.count("hint 3 of 3: There is no third way.") == 2


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("maek-vm 1", "did you mean make-vm?"),
        ("make-vm 99", "the VMs here are 0..7"),
        ("make-vm 0", "there is VM 0 already"),
        ("", "NOT SOLVED"),
        ("?", "  set-slot vm slot gpa size"),
        ("v", "    0x1000-0x1fff  4 KiB  shared"),
        ("\x1b[2J\x00", "NOT SOLVED"),
    ],
)
def test_lines_that_change_nothing(line: str, answer: str) -> None:
    done, text = solved(line)
    assert not done
    assert answer in text
    assert "\ntried:" not in text
    assert "\x1b" not in text


@pytest.mark.parametrize("exercise", BOOK.exercises[:2], ids=lambda one: one.id)
def test_the_book_s_solutions_as_they_are_typed(exercise: Exercise) -> None:
    words = [act_words(act) for act in exercise.solution]
    assert solved(*words, exercise=exercise)[0]
    assert not solved(*words[:-1], exercise=exercise)[0]


@pytest.mark.slow
def test_lines_of_standard_input() -> None:
    exercise = BOOK.exercises[0]
    command = ("demo", "--exercise", str(exercise.number), "--host", "model")
    words = "\n".join(act_words(act) for act in exercise.solution)
    # The last line has no end.
    ended = pyvmm(*command, given=words.encode())
    assert (ended.code, ended.err) == (0, "")
    assert b"\nSOLVED: " in ended.out
    assert b"act, ? for help" not in ended.out
    ended = pyvmm(*command)
    assert (ended.code, ended.err) == (1, "")
    assert f"\nNOT SOLVED: {exercise.goals[0].says}\n".encode() in ended.out
    ended = pyvmm(*command, given=b"\xff\xfe\n" + b"x" * 100_000)
    assert (ended.code, ended.err) == (1, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--exercise", "99"], "there is no exercise '99'; there are 1, 2, "),
        (["--exercise", "two-refusal"], "did you mean two-refusals?"),
        (["--exercise", "1", "slots"], "--exercise alone"),
        (["--exercise", "1", "--web"], "without --web"),
    ],
)
def test_mistakes(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *arguments]) == 64
    assert said in capfd.readouterr().err


def test_names_and_numbers() -> None:
    assert exercise_named("1", BOOK) is BOOK.exercises[0]
    assert exercise_named(BOOK.exercises[0].id, BOOK) is BOOK.exercises[0]
    with pytest.raises(UsageError):
        exercise_named("\u0661", BOOK)
