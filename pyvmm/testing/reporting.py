# SPDX-License-Identifier: MIT
"""Reports for CI: the whole session as KTAP.

Part of the plugin: imports pytest and nothing of pyvmm that costs anything until a guest is booted.
Reports carry plain values only, because they travel between processes; only the process that writes
reports writes files.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyvmm.testing.tap_results import TapResult


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what is to be reported."""
    group = parser.getgroup("pyvmm", "guests booted by pyvmm")
    group.addoption(
        "--pyvmm-ktap-out",
        default=None,
        metavar="FILE",
        help="write all results of the session to FILE, as KTAP",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Have reports gathered where they are written: not in a worker of pytest-xdist."""
    if hasattr(config, "workerinput"):
        return
    written = config.getoption("--pyvmm-ktap-out")
    if written is not None:
        path = config.invocation_params.dir / written
        if path.is_dir():
            raise pytest.UsageError(f"--pyvmm-ktap-out: {written} is a folder")
        out = KtapOut(path)
        config.pluginmanager.register(out, "pyvmm-ktap-out")


class KtapOut:
    """The session's results as a file of KTAP, written once, at its end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: list[TapResult] = []
        self._failure = ""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take a result: that of the call, and what goes wrong before and after it."""
        if report.when != "call" and report.passed:
            return
        from pyvmm.testing.pytest_results import result_of

        self._results.append(result_of(report))

    @pytest.hookimpl(trylast=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take a file that could not be collected."""
        if report.passed or not report.nodeid:
            return
        from pyvmm.testing.pytest_results import result_of

        self._results.append(result_of(report))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the file."""
        from pyvmm.testing.ktap_document import ktap_document

        ends = {
            pytest.ExitCode.INTERRUPTED: "the run was interrupted",
            pytest.ExitCode.INTERNAL_ERROR: "pytest failed",
        }
        end = ends.get(pytest.ExitCode(exitstatus), "") if exitstatus in ends else ""
        if session.shouldstop and not end:
            end = str(session.shouldstop)
        if session.shouldfail and not end:
            end = str(session.shouldfail)
        try:
            write_whole(self._path, ktap_document(self._results, end))
        except OSError as error:
            self._failure = f"cannot write {self._path}: {error.strerror}"
            session.exitstatus = pytest.ExitCode.USAGE_ERROR

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the results are, or why not."""
        if self._failure:
            terminalreporter.write_line(f"ERROR: {self._failure}", red=True)
        else:
            terminalreporter.write_sep("-", f"KTAP: {self._path}")


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it, and make its folder. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    """The mask that new files get; it can only be read by setting it."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    for line in status.splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
