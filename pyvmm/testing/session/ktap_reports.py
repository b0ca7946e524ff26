# SPDX-License-Identifier: MIT
"""Results of one boot as reports of their own, made where reports are written.

A worker of pytest-xdist may report only items that were collected (xdist/remote.py asserts it). So
an item's report carries the results as plain values, and the process that writes reports unfolds
them: each is counted, shown and written to JUnit's XML as a test is.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyvmm.testing.images.source_files import SourceFiles

CARRIED = "pyvmm_results"
"""Attribute of a report: a list of dicts of texts and lists of texts, one for each result."""

_GUESTS, _SECTIONS = "pyvmm_guests", "pyvmm_sections"
"""Those of the boot's report that explain its guests (`explaining.failed_tests`, not loaded)."""
IS_RESULT = "pyvmm_is_result"
"""Attribute of the report of such a result."""


def carried(image: Path, results: Any) -> list[dict[str, Any]]:
    """Plain values of a `TapReport`; lines only where somebody will want to read them."""
    return [
        {
            "image": str(image),
            "path": list(each.path),
            "status": each.status.value,
            "reason": each.reason,
            "lines": list(each.lines) if each.status.is_failure else [],
        }
        for each in results.results
    ]


class _Guests:
    """Explanation of a boot's guests, for the reports of its results that have failed.

    The whole of it is in the first of these, or in the boot's own report where that has failed.
    """

    def __init__(self, boot: pytest.TestReport) -> None:
        self._guests: list[dict[str, Any]] = getattr(boot, _GUESTS, [])
        self._sections = [(title, text) for title, text in getattr(boot, _SECTIONS, ())]
        self._told_in = "" if self._sections else boot.nodeid

    def attach(self, result: pytest.TestReport) -> None:
        """Add sections to the report of a result that has failed, and plain values."""
        if not self._guests:
            return
        setattr(result, _GUESTS, self._guests)
        if not self._told_in:
            self._told_in = result.nodeid
            result.sections += self._sections
            return
        for guest in self._guests:
            lines = [f"the same boot as that of {self._told_in}"]
            if guest["artifacts"]:
                lines.append(f"artifacts: {guest['artifacts']}")
            lines.append(f"by hand: {guest['by_hand']}")
            result.sections.append((f"guest {guest['name']} on {guest['host']}", "\n".join(lines)))


class Unfolding:
    """Unfolds reports of boots with many results. For the process that writes the reports."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._session: pytest.Session | None = None
        self._sources: tuple[Path, SourceFiles] | None = None

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Keep the session, which counts the tests."""
        self._session = session

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logreport(
        self, report: pytest.TestReport
    ) -> Generator[None, object, object]:
        """Give a report for each result behind the report that carries them."""
        result = yield
        given = {report.nodeid}
        guests = _Guests(report)
        for each in getattr(report, CARRIED, ()):
            if self._session is not None:
                self._session.testscollected += 1
            nodeid = "::".join([report.nodeid.partition("::")[0], *each["path"]])
            while nodeid in given:
                nodeid += "#2"
            given.add(nodeid)
            for one in self._reports(report, nodeid, each):
                if one.failed:
                    guests.attach(one)
                self._config.hook.pytest_runtest_logreport(report=one)
        return result

    def _reports(
        self, carrying: pytest.TestReport, nodeid: str, result: dict[str, Any]
    ) -> list[pytest.TestReport]:
        """The result's report, and that of an empty teardown, with which writers close a test."""
        image = self._shown(Path(result["image"]))
        path = result["path"]
        make = partial(
            pytest.TestReport,
            nodeid=nodeid,
            # As the headline of a failure; pytest takes the end of a node id for a Python name.
            location=(image, None, f"{image} {'::'.join(path)}"),
            keywords={path[-1]: 1},
            user_properties=[],
        )
        outcome, longrepr, xfail = self._outcome(Path(result["image"]), result)
        called = make(outcome=outcome, longrepr=longrepr, when="call", duration=0.0)
        if xfail is not None:
            called.wasxfail = xfail
        setattr(called, IS_RESULT, True)
        reports = [called, make(outcome="passed", longrepr=None, when="teardown", duration=0.0)]
        for name in ("node", "worker_id", "testrun_uid", "item_index"):
            if hasattr(carrying, name):
                for each in reports:
                    setattr(each, name, getattr(carrying, name))
        return reports

    def _outcome(self, image: Path, result: dict[str, Any]) -> tuple[Any, Any, str | None]:
        """Outcome of pytest's, its representation, and the reason of an expected failure."""
        status, reason = result["status"], result["reason"]
        if status == "skipped":
            return "skipped", (str(image), 1, f"Skipped: {reason}"), None
        if status == "xfailed":
            return "skipped", None, reason
        if status == "xpassed":
            return "passed", None, reason
        if status == "passed":
            return "passed", None, None
        return "failed", self._failure(image, result), None

    def _failure(self, image: Path, result: dict[str, Any]) -> object:
        from pyvmm.testing.results.guest_failures import find_failures
        from pyvmm.testing.session.guest_longrepr import failure_repr

        failures = find_failures(result["lines"])
        reason = result["reason"] or f"the guest said not ok of {result['path'][-1]}"
        if failures and not result["reason"]:
            reason = failures[0].expression
        said = [f"  | {line}" for line in result["lines"]]
        return failure_repr(
            reason,
            failures,
            (self._shown(image), 1),
            self._sources_of(image),
            ["the guest said of it, or before it:", *said] if said else [],
        )

    def _sources_of(self, image: Path) -> SourceFiles:
        """Source files of an image; kept for the results that follow, which are of the same."""
        from pyvmm.testing.images.source_files import SourceFiles

        if self._sources is None or self._sources[0] != image:
            self._sources = image, SourceFiles(image, self._config.rootpath)
        return self._sources[1]

    def _shown(self, image: Path) -> str:
        try:
            return str(image.relative_to(self._config.rootpath))
        except ValueError:
            return str(image)
