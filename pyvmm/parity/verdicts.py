# SPDX-License-Identifier: MIT
"""Verdicts on the cases of one kernel, and where two kernels differ."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pyvmm.errors import InternalError
from pyvmm.parity.table import Case

DESCRIPTOR = "PYVMM_PARITY_FD"
"""Variable of the environment that names the descriptor to which the cases' process tells."""


class Outcome(enum.Enum):
    """Outcome of a test."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Answer(enum.Enum):
    """Answer of a kernel to a case."""

    SHOWN = "shown"
    """It does as the kernel's test says, wherever it has what the case is about."""
    OTHERWISE = "otherwise"
    """It does something else."""
    ABSENT = "absent"
    """It lacks what the case is about."""


class Told(NamedTuple):
    """One test that was run: ``file::function``, its parameters ("" without), and what came of it.

    `why` is the reason of a skip, or the failure's line.
    """

    function: str
    parameters: str
    outcome: Outcome
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to one case; `shown` of `asked` tests passed, the others were skipped or failed.

    `why` has each reason once: of the failures where there are any, otherwise of the skips.
    """

    case: Case
    answer: Answer
    shown: int
    asked: int
    why: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "kernel_test": self.case.kernel_test,
            "case": self.case.name,
            "shows": self.case.shows,
            "test": self.case.function,
            "answer": self.answer.value,
            "shown": self.shown,
            "asked": self.asked,
            "why": list(self.why),
        }


@dataclass(frozen=True, slots=True)
class Parity:
    """Verdicts of one kernel: `name` as the user has called it, `release` as uname tells."""

    name: str
    release: str
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        cases = [verdict.to_json() for verdict in self.verdicts]
        return {"name": self.name, "release": self.release, "cases": cases}

    @classmethod
    def from_json(cls, name: str, value: Mapping[str, object], cases: Iterable[Case]) -> Parity:
        """Read what `to_json` gave, of `cases`, as the kernel `name`; raises `InternalError`."""
        by_function = {case.function: case for case in cases}
        try:
            told = value["cases"]
            if not isinstance(told, list):
                raise TypeError("its cases are no list")
            verdicts = tuple(
                Verdict(
                    by_function[one["test"]],
                    Answer(one["answer"]),
                    one["shown"],
                    one["asked"],
                    tuple(one["why"]),
                )
                for one in told
            )
            return cls(name, str(value["release"]), verdicts)
        except (KeyError, TypeError, ValueError) as error:
            raise InternalError("read what pyvmm parity has printed", repr(error)) from error


def judge(cases: Sequence[Case], told: Iterable[Told]) -> tuple[Verdict, ...]:
    """The verdict of each case of which some test was run, in the order of `cases`."""
    by_function: dict[str, list[Told]] = {}
    for one in told:
        by_function.setdefault(one.function, []).append(one)
    return tuple(
        _verdict(case, by_function[case.function]) for case in cases if case.function in by_function
    )


def _verdict(case: Case, told: Sequence[Told]) -> Verdict:
    reasons: dict[Outcome, list[str]] = {outcome: [] for outcome in Outcome}
    for one in told:
        reasons[one.outcome].append(one.why)
    failed, passed = reasons[Outcome.FAILED], len(reasons[Outcome.PASSED])
    answer = Answer.OTHERWISE if failed else Answer.SHOWN if passed else Answer.ABSENT
    why = tuple(dict.fromkeys(failed or reasons[Outcome.SKIPPED]))
    return Verdict(case, answer, passed, len(told), why)


def differences(kernels: Sequence[Parity]) -> tuple[Case, ...]:
    """Cases in which not all of `kernels` answer alike, in the order of the first that has them."""
    answers: dict[Case, list[Answer]] = {}
    for kernel in kernels:
        for verdict in kernel.verdicts:
            answers.setdefault(verdict.case, []).append(verdict.answer)
    return tuple(
        case for case, given in answers.items() if len(given) != len(kernels) or len(set(given)) > 1
    )
