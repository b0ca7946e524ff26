# SPDX-License-Identifier: MIT
"""Reports for CI: what each boot took, the whole session as KTAP, consoles in JUnit's XML.

Part of the plugin: imports pytest and nothing of pyvmm that costs anything until a guest is booted.
Reports carry plain values only, because they travel between processes; only the process that writes
reports writes files.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyvmm.testing.session.ktap_reports import IS_RESULT

if TYPE_CHECKING:
    from pyvmm.testing.life import Life
    from pyvmm.testing.results.tap_results import TapResult

BOOTS = "pyvmm_boots"
"""Attribute of a report: a list of dicts, one for each guest that the test booted."""
_CONSOLE_LIMIT = 64 << 10
"""Bytes of a console's end that JUnit's XML gets."""
_OUTCOMES_WITH_OUTPUT = ("system-out", "out-err", "all")
"""Values of ``junit_logging`` with which the XML has what tests print."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what is to be reported."""
    group = parser.getgroup("pyvmm", "guests booted by pyvmm")
    group.addoption(
        "--pyvmm-boots",
        type=_count,
        default=None,
        metavar="N",
        help="show the N boots that took longest (0: all of them)",
    )
    group.addoption(
        "--pyvmm-ktap-out",
        default=None,
        metavar="FILE",
        help="write all results of the session to FILE, as KTAP",
    )


def _count(text: str) -> int:
    if text.isascii() and text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of boots, from 0 on")


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
    if config.getoption("--pyvmm-boots") is not None:
        config.pluginmanager.register(BootTimes(config), "pyvmm-boot-times")
    if getattr(config.option, "xmlpath", None):
        config.pluginmanager.register(Attachments(config), "pyvmm-attachments")


# -- where tests run --


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Have the report say which guests were booted, and have it carry what they said."""
    boots = _boots_of(item, call)
    named = [("pyvmm_boot", describe(boot)) for boot, _ in boots]
    if not _is_xunit2(item.config):
        item.user_properties += named
    if _wants_consoles(item.config):
        for boot, said in boots:
            # By its name it is a part of what the test wrote to standard output.
            title = f"stdout of {boot['image']} on {boot['host']} in the"
            item.add_report_section("call", title, _shown(said))
    report = yield
    if boots:
        setattr(report, BOOTS, [boot for boot, _ in boots])
    return report


def describe(boot: dict[str, Any]) -> str:
    """One line: ``tests.img on kvm, booted, 0.012 s: the guest ended with status 0``."""
    return (
        f"{boot['image']} on {boot['host']}, {boot['how']}, {boot['seconds']:.3f} s: {boot['end']}"
    )


def _wants_consoles(config: pytest.Config) -> bool:
    has_file = getattr(config.option, "xmlpath", None)
    return bool(has_file) and config.getini("junit_logging") in _OUTCOMES_WITH_OUTPUT


def _is_xunit2(config: pytest.Config) -> bool:
    """Tell whether properties of a test would break the schema of the XML that is written."""
    has_file = getattr(config.option, "xmlpath", None)
    return bool(has_file) and config.getini("junit_family") == "xunit2"


def _shown(said: bytes) -> str:
    from pyvmm.testing.transcript import printable

    cut = said[-_CONSOLE_LIMIT:]
    left = len(said) - len(cut)
    return (f"[{left} bytes before this are left out]\n" if left else "") + printable(cut)


def _boots_of(item: pytest.Item, call: pytest.CallInfo[None]) -> list[tuple[dict[str, Any], bytes]]:
    """Plain values of the boots of a test, and what each guest said; in one of its reports."""
    # Not loaded: nobody has booted anything.
    failed_tests = sys.modules.get("pyvmm.testing.explaining.failed_tests")
    is_the_one = call.when == "call" or (call.when == "setup" and call.excinfo is not None)
    if failed_tests is None or not is_the_one:
        return []
    return [_boot(remains.life) for remains in failed_tests.guests_of(item)]


def _boot(life: Life) -> tuple[dict[str, Any], bytes]:
    end = "left while it ran" if life.outcome is None else life.outcome.detail
    values = {
        "image": life.request.name,
        "host": life.driver.host.value,
        "how": "booted" if life.request.saved is None else "restored",
        "seconds": life.seconds,
        "end": end,
    }
    return values, life.transcript.all()


# -- where reports are written --


class BootTimes:
    """Table of the boots that took longest, behind the tests, as ``--durations`` has it."""

    def __init__(self, config: pytest.Config) -> None:
        self._count: int = config.getoption("--pyvmm-boots")
        self._boots: list[tuple[float, str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take the boots of a report."""
        for boot in getattr(report, BOOTS, ()):
            self._boots.append((boot["seconds"], describe(boot), report.nodeid))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the table."""
        slowest = sorted(self._boots, reverse=True)[: self._count or None]
        if not slowest:
            return
        total = sum(seconds for seconds, _, _ in self._boots)
        count = len(self._boots)
        name = f"slowest {len(slowest)} of {count}" if len(slowest) < count else f"{count}"
        terminalreporter.write_sep("=", f"{name} boot{'s' * (count > 1)}, {total:.3f} s")
        for _, line, nodeid in slowest:
            terminalreporter.write_line(f"{line} ({nodeid})")


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
        from pyvmm.testing.session.pytest_results import result_of

        self._results.append(result_of(report))

    @pytest.hookimpl(trylast=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Take a file that could not be collected."""
        if report.passed or not report.nodeid:
            return
        from pyvmm.testing.session.pytest_results import result_of

        self._results.append(result_of(report))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write the file."""
        from pyvmm.testing.results.ktap_document import ktap_document

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


class Attachments:
    """Files that belong to a test, in JUnit's XML as Jenkins and GitLab look for them.

    They are in the test's ``system-out`` whatever ``junit_logging`` is: they are there only where
    somebody asked for them.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(
        self, report: pytest.TestReport
    ) -> Generator[None, object, object]:
        """Add the files of a report."""
        is_teardown = report.when == "teardown"
        if is_teardown:  # Behind it the test's element is finished.
            self._attach(report)
        result = yield
        if not is_teardown:
            if report.skipped and (hasattr(report, BOOTS) or hasattr(report, IS_RESULT)):
                self._write_output_once(report)
            self._attach(report)
        return result

    def _write_output_once(self, report: pytest.TestReport) -> None:
        """Drop what a skipped test has printed: with its teardown it is written again."""
        reporter = self._reporter(report)
        if reporter is not None:
            outputs = ("system-out", "system-err")
            reporter.nodes[:] = [node for node in reporter.nodes if node.tag not in outputs]

    def _attach(self, report: pytest.TestReport) -> None:
        from xml.etree import ElementTree

        here = self._config.invocation_params.dir
        guests = getattr(report, "pyvmm_guests", ())
        paths = [path for guest in guests for path in _files(guest, here)]
        reporter = self._reporter(report) if paths else None
        if reporter is None:
            return
        element = ElementTree.Element("system-out")
        element.text = "\n".join(f"[[ATTACHMENT|{path}]]" for path in paths)
        reporter.append(element)

    def _reporter(self, report: pytest.TestReport) -> Any:
        """Writer of the test's element; None where no file is written."""
        from _pytest.junitxml import xml_key

        xml = self._config.stash.get(xml_key, None)
        return None if xml is None else xml.node_reporter(report)


def _files(guest: dict[str, Any], here: Path) -> list[str]:
    """Paths of a guest's artifacts, absolute, as Jenkins wants them."""
    folder = guest.get("artifacts") or ""
    if not folder:
        return []
    path = Path(os.path.normpath(here / folder))
    return sorted(str(each) for each in path.glob("*") if each.is_file())


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
    """The mask that new files get, as /proc tells; without /proc it can be read only by setting it,
    for all threads: then the usual one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022
