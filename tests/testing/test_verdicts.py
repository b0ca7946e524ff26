# SPDX-License-Identifier: MIT
"""Verdicts: what a guest printed and how it ended have to agree."""

from __future__ import annotations

import pytest

from pyvmm.testing.drivers.driver import Outcome, OutcomeKind
from pyvmm.testing.results.tap_results import TapStatus
from pyvmm.testing.results.verdicts import judge_case, judge_run, read_results

START = b"KTAP version 1\n1..1\n"
OK = b"KTAP version 1\n1..1\nok 1 a\n"
NOT_OK = b"KTAP version 1\n1..1\n# a: FAILED at x.c:3: b == c\nnot ok 1 a\n"


def outcome(kind: OutcomeKind = OutcomeKind.EXITED, status: int | None = 0) -> Outcome:
    return Outcome(kind, f"detail of {kind.value}", status, 0.1, {})


@pytest.mark.parametrize(
    ("said", "end", "status", "reason"),
    [
        (OK, outcome(), TapStatus.PASSED, ""),
        (OK.replace(b"a\n", b"a # SKIP why\n"), outcome(), TapStatus.SKIPPED, "why"),
        (OK.replace(b"a\n", b"a # XFAIL why\n"), outcome(), TapStatus.XFAILED, "why"),
        (NOT_OK, outcome(status=1), TapStatus.FAILED, "b == c"),
        (NOT_OK, outcome(), TapStatus.FAILED, "b == c"),
        (START + b"not ok 1 a # ERROR no disk\n", outcome(), TapStatus.FAILED, "no disk"),
        (START + b"not ok 1 a\n", outcome(), TapStatus.FAILED, "said not ok"),
        (OK, outcome(status=1), TapStatus.FAILED, "said ok, but the guest has ended otherwise"),
        (OK, outcome(OutcomeKind.POWERED_OFF, None), TapStatus.FAILED, "detail of powered-off"),
        (OK, outcome(OutcomeKind.RESET, None), TapStatus.FAILED, "detail of reset"),
        (OK, outcome(OutcomeKind.PANICKED, None), TapStatus.CRASHED, "detail of panicked"),
        (OK + b"PANIC: o", outcome(OutcomeKind.PANICKED, None), TapStatus.CRASHED, "panicked: o"),
        (OK, outcome(OutcomeKind.CRASHED, None), TapStatus.CRASHED, "detail of crashed"),
        (OK, outcome(OutcomeKind.TIME_LIMIT, None), TapStatus.CRASHED, "did not end within 5 s"),
        (OK, None, TapStatus.CRASHED, "did not end within 5 s"),
        (b"", outcome(), TapStatus.FAILED, "no version line"),
        (b"KTAP version 1\n", outcome(), TapStatus.CRASHED, "gave no result"),
        (b"KTAP version 1\n1..1\n", outcome(), TapStatus.CRASHED, "gave no result"),
        (OK.replace(b" a", b" b"), outcome(), TapStatus.CRASHED, "gave no result"),
        (OK.replace(b"1..1", b"1..2") + b"ok 2 b\n", outcome(), TapStatus.CRASHED, "no result"),
        (OK + b"ok 1 a\n", outcome(), TapStatus.FAILED, "makes no sense"),
        (b"KTAP version 1\nBail out! no\n", outcome(status=2), TapStatus.FAILED, "Bail out! no"),
    ],
)  # fmt: skip
def test_a_case(said: bytes, end: Outcome | None, status: TapStatus, reason: str) -> None:
    verdict = judge_case("a", said, end, 5)
    assert verdict.status is status
    assert reason in verdict.reason


def test_a_case_whose_name_has_levels_in_it() -> None:
    assert judge_case("a::b", OK.replace(b" a", b" a::b"), outcome(), 5).status is TapStatus.PASSED


@pytest.mark.parametrize(
    ("said", "end", "reason"),
    [
        (OK, outcome(), None),
        (OK, outcome(OutcomeKind.POWERED_OFF, None), None),
        (OK, outcome(OutcomeKind.RESET, None), None),
        (NOT_OK, outcome(status=1), None),
        (NOT_OK, outcome(), None),
        (OK, outcome(status=1), "every test passed, but the guest ended with status 1"),
        (OK, outcome(OutcomeKind.PANICKED, None), "the guest has panicked: detail of panicked"),
        (OK, outcome(OutcomeKind.CRASHED, None), "the guest has crashed: detail of crashed"),
        (NOT_OK, outcome(OutcomeKind.CRASHED, None), "the guest has crashed: detail of crashed"),
        (OK, None, "the guest did not end within 5 s: 1 passed until then"),
        (OK, outcome(OutcomeKind.TIME_LIMIT, None), "the guest did not end within 5 s: 1 passed"),
        (b"KTAP version 1\n", outcome(), "no tests ran in the guest"),
        (b"hello\n", outcome(), "the guest's output makes no sense: no version line"),
        (OK + b"ok 5 b\nok 9 c\n", outcome(), "result 5 (b) where 2 was due (and 2 more)"),
        (b"ready\n", None, "did not end within 5 s: no tests until then"),
        (START + b"PANIC: o\n", outcome(OutcomeKind.PANICKED, None), "has panicked: o"),
        (b"ready\n", outcome(), "makes no sense: no version line"),
    ],
)
def test_a_run_of_many(said: bytes, end: Outcome | None, reason: str | None) -> None:
    told = judge_run(read_results(said), said, end, 5, crash=False)
    assert told == "" if reason is None else reason in told


def test_a_guest_that_is_meant_to_crash_may() -> None:
    end = outcome(OutcomeKind.PANICKED, None)
    assert judge_run(read_results(OK), OK, end, 5, crash=True) == ""
    assert judge_run(read_results(b""), b"", end, 5, crash=True) != ""
