# SPDX-License-Identifier: MIT
"""Verdicts on what a guest printed and how it ended, taken together. Pure.

Neither is enough: a guest that panics at its end may have said "ok", and one that exits with 0 may
have left its tests out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pyvmm.testing.drivers.driver import Outcome, OutcomeKind
from pyvmm.testing.results.guest_failures import GuestFailure, find_failures
from pyvmm.testing.results.tap import TapParser
from pyvmm.testing.results.tap_results import TapReport, TapResult, TapStatus, level_name
from pyvmm.testing.transcript import printable

_BROKEN = (OutcomeKind.PANICKED, OutcomeKind.CRASHED)
_PANIC = re.compile(rb"(?:PANIC|Kernel panic - not syncing): ([^\r\n]{1,200})")
"""Of our guests, and of Linux."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on one test: `reason` in a line where it has not passed, `failures` in order."""

    status: TapStatus
    reason: str = ""
    failures: tuple[GuestFailure, ...] = ()


def read_results(said: bytes) -> TapReport:
    """Results of a whole console output."""
    parser = TapParser()
    parser.feed(said)
    return parser.finish()


def judge_case(name: str, said: bytes, outcome: Outcome | None, limit: float) -> Verdict:
    """Judge a boot for one case: it has passed where that ended well and the guest agrees.

    `outcome` is None where the guest did not end within `limit` seconds.
    """
    report = read_results(said)
    failures = find_failures(printable(said).split("\n"))

    def failed(reason: str, status: TapStatus = TapStatus.FAILED) -> Verdict:
        return Verdict(status, reason, failures)

    if outcome is None or outcome.kind is OutcomeKind.TIME_LIMIT:
        return failed(f"the case did not end within {limit:g} s", TapStatus.CRASHED)
    if outcome.kind in _BROKEN:
        return failed(_how_it_broke(outcome, said), TapStatus.CRASHED)
    if report.problems:
        return failed(f"its output makes no sense: {report.problems[0]}")
    result = _only_result(name, report)
    if result is None:
        reason = f"the case gave no result, and the guest has ended: {outcome.detail}"
        return failed(reason, TapStatus.CRASHED)
    if result.status.is_failure:
        return failed(_why(result, failures), result.status)
    if outcome.kind is not OutcomeKind.EXITED or outcome.status != 0:
        return failed(f"the case said ok, but the guest has ended otherwise: {outcome.detail}")
    return Verdict(result.status, result.reason)


def judge_run(
    report: TapReport, said: bytes, outcome: Outcome | None, limit: float, *, crash: bool
) -> str:
    """Say in a line why a boot with many results is no good, whatever these are; "" if it is good.

    The results' own failures are told elsewhere. `outcome` is None where the guest went on for
    `limit` seconds; a guest that is meant to `crash` at its end may.
    """
    if outcome is None or outcome.kind is OutcomeKind.TIME_LIMIT:
        return f"the guest did not end within {limit:g} s: {report.describe()} until then"
    if outcome.kind in _BROKEN and not crash:
        return _how_it_broke(outcome, said)
    # Behind its end, which may well be why the output is not whole.
    if report.problems:
        more = f" (and {len(report.problems) - 1} more)" if len(report.problems) > 1 else ""
        return f"the guest's output makes no sense: {report.problems[0]}{more}"
    if not report.results:
        return "no tests ran in the guest"
    has_failed = bool(report.failures)
    if outcome.kind is OutcomeKind.EXITED and outcome.status and not has_failed:
        return f"every test passed, but the guest ended with status {outcome.status}"
    return ""


def _how_it_broke(outcome: Outcome, said: bytes) -> str:
    match = _PANIC.search(said)
    detail = printable(match[1]) if match else outcome.detail
    return f"the guest has {outcome.kind.value}: {detail}"


def _only_result(name: str, report: TapReport) -> TapResult | None:
    """The result of the case, where it is the only one."""
    if len(report.results) == 1 and report.results[0].path == (level_name(name),):
        return report.results[0]
    return None


def _why(result: TapResult, failures: Sequence[GuestFailure]) -> str:
    if failures:
        return failures[0].expression
    if result.reason:
        return result.reason
    return "no result came" if result.status is TapStatus.CRASHED else "the case said not ok"
