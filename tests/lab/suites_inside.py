# SPDX-License-Identifier: MIT
"""``python -m tests.lab.suites_inside AT_ONCE FOLDER,... FILE...``: runs suites, several at a time.

Run in the lab, where imports are seconds of emulated processor: all tests are collected once, from
the files that have some to run, and each suite (a folder) is run by a fork of the process that has
them. A line of JSON for each as it ends:
`suite`, `code` as `os.waitstatus_to_exitcode` has it, and `out`, what it printed.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

SELECTED = (
    *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:xdist.looponfail"),
    # passt has no network to speak to in there; masquerading is nowhere but in there.
    *("-m", "(kvm and not passt) or nft"),
)
"""pytest's options that select the tests of a suite that are run in a lab."""
OPTIONS = (
    *("-v", "--tb=short", *SELECTED),
    # This module is one of the package `tests`, which has no assertions.
    *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),
)


class SuiteForks:
    """Plugin that has each suite of a session run by a fork, `at_once` of them at a time."""

    def __init__(self, at_once: int, suites: Sequence[str], told: IO[str]) -> None:
        self._at_once = at_once
        self._waiting = list(suites)
        self._running: dict[int, tuple[str, IO[bytes]]] = {}
        self._told = told
        self.is_fork = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Start the forks and wait for them; in a fork, leave its tests to pytest."""
        if session.testsfailed:
            return None  # Not all could be collected: pytest tells, and fails.
        while self._waiting or self._running:
            while self._waiting and len(self._running) < self._at_once:
                suite = self._waiting.pop(0)
                output: IO[bytes] = os.fdopen(os.memfd_create(suite), "w+b")
                child = os.fork()
                if not child:
                    self.is_fork = True
                    _become(suite, output, session)
                    return None
                self._running[child] = suite, output
            self._tell(*os.wait())
        return True

    def _tell(self, pid: int, status: int) -> None:
        suite, output = self._running.pop(pid)
        with output:
            output.seek(0)
            out = output.read().decode(errors="replace")
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"suite": suite, "code": code, "out": out}), file=self._told, flush=True)


def _become(suite: str, output: IO[bytes], session: pytest.Session) -> None:
    """Make this process one that prints to `output` and has the tests of `suite` only."""
    capture = session.config.pluginmanager.getplugin("capturemanager")
    assert capture is not None
    # What is captured has to be given back to where this process now prints.
    capture.stop_global_capturing()
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    output.close()
    capture.start_global_capturing()
    capture.suspend_global_capture()
    folder = Path(suite).resolve()
    session.items = [item for item in session.items if folder in item.path.parents]
    session.testscollected = len(session.items)


def main(at_once: int, suites: Sequence[str], files: Sequence[str]) -> int:
    """Run each of `suites`, the first ones first, of whose files `files` are collected.

    Returns pytest's status of having collected them, or a suite's.
    """
    # Of pytest itself, whoever started us sees only what goes wrong.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as told:
        os.dup2(2, 1)
        forks = SuiteForks(at_once, suites, told)
        code = 99
        try:
            code = int(pytest.main([*OPTIONS, *files], [forks]))
        except BaseException:
            if not forks.is_fork:
                raise
            traceback.print_exc()
        if forks.is_fork:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return 0 if code == pytest.ExitCode.NO_TESTS_COLLECTED else code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:]))
