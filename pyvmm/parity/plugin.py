# SPDX-License-Identifier: MIT
"""Plugin of pytest's in the process that runs the cases: tells what becomes of each.

A line of JSON for each to the descriptor that PYVMM_PARITY_FD names: the number of tests first,
then `Told` as a list.
"""

from __future__ import annotations

import json
import os

import pytest

from pyvmm.parity.verdicts import DESCRIPTOR, Outcome

_MARKS = ("kvm: needs /dev/kvm", "slow: takes a quarter of a second or more")


def pytest_configure(config: pytest.Config) -> None:
    """Make known the marks that the cases have."""
    for mark in _MARKS:
        config.addinivalue_line("markers", mark)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep what asks KVM: some cases are also asked of the model."""
    items[:] = [item for item in items if item.get_closest_marker("kvm") is not None]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tell how many there are."""
    _tell(len(session.items))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Tell the outcome of a test: of its call, or of what went wrong around it."""
    if report.when != "call" and report.outcome == "passed":
        return
    name = report.nodeid.rpartition("/")[2]
    function, _, parameters = name.partition("[")
    outcome = Outcome(report.outcome)
    _tell([function, parameters.removesuffix("]"), outcome.value, _why(report)])


def _why(report: pytest.TestReport) -> str:
    told = report.longrepr
    if isinstance(told, tuple):  # A skip: file, line, reason.
        return str(told[2]).removeprefix("Skipped: ")
    crash = getattr(told, "reprcrash", None)
    return str(crash.message if crash is not None else told or "").partition("\n")[0]


def _tell(value: object) -> None:
    os.write(int(os.environ[DESCRIPTOR]), json.dumps(value).encode() + b"\n")
