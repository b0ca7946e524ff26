# SPDX-License-Identifier: MIT
"""``python -m pyvmm.testing.session.lab_worker``: the process that runs the lab's tests, there.

It is a pytest with the options of the one outside (`lab_tests`), which tells it what to run. Both
say lines of JSON. In: first the options, then ``{"run": nodeid, "next": nodeid or null}`` for each
test. Out: ``{"report": ...}``, a report as pytest serialises it, and ``{"done": nodeid}`` after the
last; ``{"lost": why}`` for a test that is not collected here, ``{"exit": why}`` where one has ended
the session, and ``{"alive": 1}`` now and then.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import IO, Any

import pytest

HEARTBEAT = 10.0
"""Seconds between two lines that say that all is well."""


class _Wire:
    """Lines of JSON, both ways, over what standard input and output were at the start."""

    def __init__(self) -> None:
        self._in: IO[bytes] = os.fdopen(os.dup(0), "rb")
        self._out = os.dup(1)
        self._lock = threading.Lock()
        # The tests' own input is empty; what they print past pytest is no line of ours.
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        os.dup2(2, 1)

    def receive(self) -> dict[str, Any] | None:
        """Take a line; None after the last."""
        line = self._in.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def say(self, **words: object) -> None:
        """Send a line."""
        data = memoryview(json.dumps(words).encode() + b"\n")
        with self._lock:
            while data:
                data = data[os.write(self._out, data) :]

    def beat(self, ended: threading.Event) -> None:
        """Say now and then that this process is there."""
        while not ended.wait(HEARTBEAT):
            self.say(alive=1)


class _Worker:
    """Plugin: the run loop that asks what to run, and what becomes of the reports."""

    def __init__(self, config: pytest.Config, wire: _Wire) -> None:
        self._config = config
        self._wire = wire
        self._items: dict[str, pytest.Item] = {}
        self._collected: set[str] = set()
        self._problems: dict[str, str] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run what is asked for, until nothing more comes."""
        while (asked := self._wire.receive()) is not None:
            nodeid, follows = asked["run"], asked["next"]
            item = self._item(session, nodeid)
            if item is None:
                file = nodeid.partition("::")[0]
                why = self._problems.get(file) or "it is not collected there"
                self._wire.say(lost=why)
                continue
            next_item = None if follows is None else self._item(session, follows)
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=next_item)
            self._wire.say(done=nodeid)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Send it out."""
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        # Not before pytest, which rewrites assertions of what is not imported yet.
        from pyvmm.testing.session.report_lines import packed

        self._wire.say(report=packed(data))

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Say that a test has ended the session (`pytest.exit`, an interruption)."""
        self._wire.say(exit=str(excinfo.value) or excinfo.typename)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep why a file could not be collected."""
        if report.failed:
            self._problems[report.nodeid.partition("::")[0]] = report.longreprtext

    def _item(self, session: pytest.Session, nodeid: str) -> pytest.Item | None:
        file = nodeid.partition("::")[0]
        if file not in self._collected:
            self._collected.add(file)
            try:
                found = session.perform_collect([str(self._config.rootpath / file)])
            except pytest.UsageError as error:
                self._problems[file] = str(error)
                found = []
            self._items |= {item.nodeid: item for item in found}
        return self._items.get(nodeid)


def main() -> int:
    """Run pytest until the input ends; its exit status."""
    wire = _Wire()
    first = wire.receive()
    if first is None:
        return 0
    ended = threading.Event()
    threading.Thread(target=wire.beat, args=(ended,), daemon=True).start()
    sys.path[:] = first["path"]
    config = pytest.Config.fromdictargs(first["options"], first["args"])
    # For the plugins this is a worker of pytest-xdist's: it writes no reports of its own.
    config.workerinput = first["workerinput"]  # type: ignore[attr-defined]
    config.args = []  # Nothing is collected before it is asked for.
    config.pluginmanager.register(_Worker(config, wire), "pyvmm-lab-worker")
    try:
        return int(config.hook.pytest_cmdline_main(config=config))
    finally:
        ended.set()
        config._ensure_unconfigure()


if __name__ == "__main__":
    sys.exit(main())
