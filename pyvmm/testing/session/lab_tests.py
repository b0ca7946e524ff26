# SPDX-License-Identifier: MIT
"""Tests that run in the lab, seen from outside: sent there one by one, reported here as one's own.

A session has one process for them in the lab (`lab_worker`), started for the first of these tests:
in the lab that is up, or in one that all test runs share and that ends with the last.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Literal

import pytest

from pyvmm.errors import HostLacksError, PyvmmError, UsageError
from pyvmm.lab import starting
from pyvmm.lab.failures import LabError
from pyvmm.lab.remote_command import RemoteCommand
from pyvmm.lab.settings import LabWishes, writable_folders
from pyvmm.testing.drivers.driver import CannotError
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.drivers.presence import IN_LAB, absence
from pyvmm.testing.session.marks import axes_of, is_for_lab, named, refusal
from pyvmm.testing.session.report_lines import unpacked

PATIENCE = 300.0
"""Seconds of silence after which the lab counts as lost; its process says something every 10."""
_ATTEMPTS = 3
_TAIL_LINES = 5
_LABS = 2
"""Labs that a session starts at the most: one that dies is replaced once."""
_NOT_INSIDE: dict[str, object] = {
    "numprocesses": None, "dist": "no", "tx": [], "looponfail": False, "usepdb": False,
    "trace": False, "maxfail": 0, "xmlpath": None, "keyword": "", "markexpr": "", "deselect": None,
    "lf": False, "failedfirst": False, "newfirst": False, "stepwise": False, "basetemp": None,
    "collectonly": False, "verbose": 0,
}  # fmt: skip
"""Options that are obeyed out here, and have another value in there."""
_CACHE = "cache_dir=/tmp/pyvmm-pytest-cache"


class LabTests:
    """A session's process in the lab: none before the first test. Whoever makes it closes it."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._command: RemoteCommand | None = None
        self._held: socket.socket | None = None
        """Keeps a lab that we have started ours to use."""
        self._started = 0
        self._failure: PyvmmError | None = None

    def run(self, item: pytest.Item, follows: pytest.Item | None) -> Iterator[pytest.TestReport]:
        """Run `item` in the lab and give its reports; `follows` is the lab's next test, if known.

        Raises what keeps the lab from starting, `LabError` where it is lost, and `UsageError` where
        the test is not there.
        """
        words = {"run": item.nodeid, "next": None if follows is None else follows.nodeid}
        try:
            command = self._running()
            command.send(json.dumps(words).encode() + b"\n")
            lost = yield from self._reports(command)
        except PyvmmError as error:
            self._failure = error
            self.close()
            raise
        except BaseException:
            # Nobody knows any more what the other side is at.
            self.close()
            raise
        if lost is not None:
            raise UsageError(f"run {item.nodeid} in the lab", lost)

    def close(self) -> None:
        """End the process, and the lab if nobody else uses it."""
        command, self._command = self._command, None
        if command is not None:
            command.close()
        held, self._held = self._held, None
        if held is not None:
            held.close()

    def finish(self) -> None:
        """Let the process end in order: it tears down the fixtures that are left there."""
        command = self._command
        try:
            if command is not None:
                command.end_input()
                while command.receive_line() is not None:
                    pass
        except PyvmmError:
            pass  # All tests have been reported.
        finally:
            self.close()

    def _reports(self, command: RemoteCommand) -> Generator[pytest.TestReport, None, str | None]:
        """Give the reports of one test; the result is why there are none, None where all came."""
        while (line := command.receive_line()) is not None:
            said = json.loads(line)
            if "report" in said:
                yield self._config.hook.pytest_report_from_serializable(
                    config=self._config, data=unpacked(said["report"])
                )
            elif "lost" in said:
                return str(said["lost"])
            elif "exit" in said:
                raise pytest.exit.Exception(said["exit"])
            elif "done" in said:
                return None
        lines = [line for line in command.last_lines.splitlines() if line.strip()]
        said_last = " | ".join(lines[-_TAIL_LINES:])
        raise LabError(
            "run the test in the lab",
            f"the process of the lab's tests is gone: {command.ending}",
            f"it said last: {said_last}" if said_last else "",
        )

    def _running(self) -> RemoteCommand:
        if self._command is not None:
            return self._command
        if self._failure is not None and (
            self._started >= _LABS or isinstance(self._failure, HostLacksError)
        ):
            raise self._failure
        self._started += 1
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                command = self._new_command()
            except LabError:
                # It may just have been ending, because nobody used it any more.
                if attempt == _ATTEMPTS:
                    raise
            else:
                break
        self._command = command
        command.send(json.dumps(self._first_words()).encode() + b"\n")
        return command

    def _new_command(self) -> RemoteCommand:
        wishes = LabWishes(writable=self._writable())
        connection = starting.connect_if_met(wishes)
        if connection is None:
            if self._held is not None:
                self._held.close()
            connection, self._held = starting.share(wishes.settings())
        environment = {
            key: value
            for key, value in os.environb.items()
            if not key.startswith(b"PYTEST_XDIST") and key != b"PYTEST_CURRENT_TEST"
        }
        environment[os.fsencode(IN_LAB)] = b"1"
        # Not with -m: pytest rewrites assertions of what is not imported yet.
        arguments = [sys.executable, "-P", str(Path(__file__).with_name("lab_worker.py"))]
        directory = self._config.invocation_params.dir
        try:
            command = RemoteCommand(connection, arguments, environment, directory, PATIENCE)
            command.wait_for_start()
        except BaseException:
            connection.close()
            raise
        return command

    def _writable(self) -> tuple[str, ...]:
        """Folders that tests in the lab write to and that are read out here."""
        artifacts = getattr(self._config.option, "pyvmm_artifacts", None)
        if not artifacts:
            return ()
        Path(artifacts).mkdir(parents=True, exist_ok=True)
        return writable_folders([str(artifacts)])

    def _first_words(self) -> dict[str, object]:
        options = {
            name: value for name, value in vars(self._config.option).items() if _is_plain(value)
        }
        options |= {name: value for name, value in _NOT_INSIDE.items() if name in options}
        options["override_ini"] = [*(self._config.option.override_ini or ()), _CACHE]
        return {
            "path": sys.path,
            "args": [str(argument) for argument in self._config.args],
            "options": options,
            "workerinput": {
                "workerid": "lab", "workercount": 1, "testrunuid": "lab", "mainargv": sys.argv,
            },
        }  # fmt: skip


_AFTER: dict[str, Literal["setup", "call", "teardown"]] = {
    "": "setup", "setup": "call", "call": "teardown", "teardown": "teardown",
}  # fmt: skip
"""Phase of a test that a failure of the lab belongs to, by the last one that was reported."""


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def run_in_lab(tests: LabTests, item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Run `item` in the lab and report it here, as pytest's own protocol does.

    Where this machine has no lab it is skipped, or fails where the lab is required.
    """
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    last = ""

    def take_reports() -> None:
        nonlocal last
        for report in tests.run(item, _lab_item_after(item, nextitem)):
            item.ihook.pytest_runtest_logreport(report=report)
            last = str(report.when)

    def ask() -> None:
        try:
            why = absence(HostName.LAB)
            if why is not None:
                raise CannotError(HostName.LAB, None, why)
            take_reports()
        except HostLacksError as error:
            raise _refusal(item, CannotError(HostName.LAB, None, error.cause)) from None
        except CannotError as error:
            raise _refusal(item, error) from None
        except PyvmmError as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None

    call = pytest.CallInfo.from_call(
        ask, "setup", reraise=(pytest.exit.Exception, KeyboardInterrupt)
    )
    if call.excinfo is not None:
        call.when = _AFTER[last]
        _report(item, call)
    # What tests out here have left set up must fit what comes next.
    teardown = pytest.CallInfo.from_call(
        lambda: item.session._setupstate.teardown_exact(nextitem), "teardown"
    )
    if teardown.excinfo is not None or last != "teardown":
        _report(item, teardown)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)


def _refusal(item: pytest.Item, error: CannotError) -> BaseException:
    return refusal(error, axes_of(item), named(item.config.getoption("pyvmm_require")))


def _report(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    report = item.ihook.pytest_runtest_makereport(item=item, call=call)
    item.ihook.pytest_runtest_logreport(report=report)


def _lab_item_after(item: pytest.Item, nextitem: pytest.Item | None) -> pytest.Item | None:
    """The lab's next test, as far as it is known here: a worker of pytest-xdist's is told one."""
    if hasattr(item.config, "workerinput"):
        return nextitem if nextitem is not None and is_for_lab(nextitem) else None
    items = item.session.items
    after = items[items.index(item) + 1 :] if item in items else ()
    return next((one for one in after if is_for_lab(one)), None)
