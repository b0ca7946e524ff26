# SPDX-License-Identifier: MIT
"""Reports of pytest as results that KTAP can be made of."""

from __future__ import annotations

import pytest

from pyvmm.testing.results.tap_results import TapResult, TapStatus


def result_of(report: pytest.TestReport | pytest.CollectReport) -> TapResult:
    """The result of a report that says something: of a call, or of what went wrong around it.

    A teardown that fails is a result of its own, below the test's name.
    """
    path = tuple(report.nodeid.split("::"))
    when = getattr(report, "when", "collect")
    if when == "teardown":
        path = (*path, "teardown")
    elif when == "collect":
        path = (*path, "collection")
    status = _status(report, when)
    return TapResult(path, status, _reason(report, status), _lines(report, status))


def _status(report: pytest.TestReport | pytest.CollectReport, when: str) -> TapStatus:
    is_expected = hasattr(report, "wasxfail")
    if report.skipped:
        return TapStatus.XFAILED if is_expected else TapStatus.SKIPPED
    if report.passed:
        return TapStatus.XPASSED if is_expected else TapStatus.PASSED
    return TapStatus.FAILED if when == "call" else TapStatus.CRASHED


def _reason(report: pytest.TestReport | pytest.CollectReport, status: TapStatus) -> str:
    if status in (TapStatus.XFAILED, TapStatus.XPASSED):
        return str(getattr(report, "wasxfail", "")).removeprefix("reason: ")
    if status is TapStatus.SKIPPED and isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    if status.is_failure:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = str(crash.message) if crash is not None else report.longreprtext
        return next(iter(message.strip().splitlines()), "")
    return ""


def _lines(report: pytest.TestReport | pytest.CollectReport, status: TapStatus) -> tuple[str, ...]:
    return tuple(report.longreprtext.splitlines()) if status.is_failure else ()
