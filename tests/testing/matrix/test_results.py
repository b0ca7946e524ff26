# SPDX-License-Identifier: MIT
"""Verdicts of a matrix: what a boot came to against what was expected of it."""

from __future__ import annotations

import pytest

from pyvmm.testing.drivers.driver import Outcome, OutcomeKind
from pyvmm.testing.matrix.plan import End, Expectation, Strictness
from pyvmm.testing.matrix.results import Verdict, faults_of, judged
from tests.testing.matrix.made import outcome

EXITED = Expectation().complete()


@pytest.mark.parametrize(
    ("expect", "came", "console", "faults"),
    [
        (EXITED, outcome(), b"", []),
        (EXITED, outcome(status=3), b"", ["exited with 3, expected was 0"]),
        (
            EXITED,
            outcome(OutcomeKind.PANICKED, detail="no\x1broot"),
            b"",
            ["panicked: no\\x1broot, expected was exited with 0"],
        ),
        (
            EXITED,
            outcome(OutcomeKind.TIME_LIMIT, detail="after 1 s"),
            b"",
            ["time-limit: after 1 s, expected was exited with 0"],
        ),
        (Expectation(End.PANICKED).complete(), outcome(OutcomeKind.PANICKED), b"", []),
        (
            Expectation(End.RESET).complete(),
            outcome(),
            b"",
            ["exited with 0, expected was reset"],
        ),
        (Expectation(console=("a", "b")).complete(), outcome(), b"a b", []),
        (
            Expectation(console=("b", "a")).complete(),
            outcome(),
            b"a b",
            ['the console never said "a" in that place'],
        ),
        (
            Expectation(console=("[ATSS]",)).complete(),
            outcome(),
            b"A",
            ['the console never said "[ATSS]"'],
        ),
        (Expectation(console=("x",), regex=("^[0-9]+$",)).complete(), outcome(), b"x\n12\n", []),
        (
            Expectation(console=("x",), regex=("^[0-9]+$",)).complete(),
            outcome(),
            b"12\nx\n",
            ['the console never said "^[0-9]+$" in that place'],
        ),
        (
            Expectation(absent=("Oops",)).complete(),
            outcome(status=1),
            b"Oops",
            ["exited with 1, expected was 0", 'the console said "Oops", which it must not'],
        ),
        (Expectation(End.CONSOLE, console=("login:",)).complete(), None, b"login:", []),
        (
            Expectation(End.CONSOLE, console=("login:",)).complete(),
            outcome(OutcomeKind.RESET),
            b"log",
            [
                "it ended (reset) before its console had said all",
                'the console never said "login:"',
            ],
        ),
    ],
)
def test_faults(
    expect: Expectation, came: Outcome | None, console: bytes, faults: list[str]
) -> None:
    assert faults_of(expect, came, console) == faults


def test_verdicts() -> None:
    known = Expectation(strictness=Strictness.FAILS, reason="no room")
    flaky = Expectation(strictness=Strictness.MAY_FAIL, reason="slow")
    assert judged(EXITED, []) == (Verdict.PASSED, "")
    assert judged(EXITED, ["a", "b"]) == (Verdict.FAILED, "a; b")
    assert judged(known, ["a"]) == (Verdict.FAILED_AS_EXPECTED, "no room (a)")
    assert judged(known, []) == (Verdict.PASSED_UNEXPECTEDLY, "it was to fail: no room")
    assert judged(flaky, ["a"]) == (Verdict.FAILED_AS_IT_MAY, "slow (a)")
    assert judged(flaky, []) == (Verdict.PASSED, "")


def test_what_leaves_a_matrix_good() -> None:
    assert [verdict for verdict in Verdict if verdict.is_as_expected] == [
        Verdict.PASSED, Verdict.FAILED_AS_EXPECTED, Verdict.FAILED_AS_IT_MAY, Verdict.SKIPPED,
    ]  # fmt: skip
