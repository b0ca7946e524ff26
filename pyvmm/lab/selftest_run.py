# SPDX-License-Identifier: MIT
"""Running KVM selftests in a lab, one after the other, each with a time limit."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from pathlib import Path
from types import TracebackType

from pyvmm.errors import HostLacksError
from pyvmm.lab import starting
from pyvmm.lab.failures import LabError
from pyvmm.lab.remote_command import RemoteCommand
from pyvmm.lab.selftest_verdicts import SelftestResult, SelftestStatus, judge
from pyvmm.lab.settings import LabWishes

_ATTEMPTS = 3
_PATIENCE = 60.0
"""Seconds beyond a test's limit after which a silent lab counts as lost."""
_MOST_LINES = 2000
_MOST_BYTES = 2000
"""Of a test's output, the last of the lines, and the first of each, are kept."""
_GRACE = 5
"""Seconds from the polite signal to the other one."""
_SCRIPT = 'exec timeout -k "$2" "$1" "./$0" 2>&1'


class SelftestRun:
    """A context manager that holds the lab: the one that is up with that kernel, or a new one.

    `folder` has the programs, and is seen by the lab; `limit` is in seconds.
    """

    def __init__(self, kernel: Path, folder: Path, limit: int) -> None:
        self._wishes = LabWishes(kernel=str(kernel))
        self._folder = folder
        self._limit = limit
        self._held: socket.socket | None = None

    def __enter__(self) -> SelftestRun:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._release()

    def run(self, name: str) -> SelftestResult:
        """Run one to its end. Raises `LabError` and `HostLacksError` where it cannot be started.

        A lab that ends with it is that test's result; the next one gets a new lab.
        """
        command = self._start(name)
        begin = time.monotonic()
        lines: deque[str] = deque(maxlen=_MOST_LINES)
        try:
            while (line := command.receive_line()) is not None:
                lines.append(line[:_MOST_BYTES].decode("utf-8", "replace").rstrip("\r"))
        except LabError as error:
            self._release()
            status, reason = SelftestStatus.LAB_FAILED, error.cause
        else:
            output = "".join(f"{line}\n" for line in lines)
            if command.status is None:
                raise LabError(f"run {name} in the lab", command.ending or "it did not start")
            status, reason = judge(command.status, output, self._limit)
        finally:
            command.close()
        return SelftestResult(name, status, reason, time.monotonic() - begin, tuple(lines))

    def _start(self, name: str) -> RemoteCommand:
        arguments = ["/bin/sh", "-c", _SCRIPT, name, str(self._limit), str(_GRACE)]
        for attempt in range(1, _ATTEMPTS + 1):
            connection = self._connect()
            try:
                command = RemoteCommand(
                    connection, arguments, os.environb, self._folder, self._limit + _PATIENCE
                )
                command.wait_for_start()
                command.end_input()
            except BaseException as error:
                connection.close()
                # The lab may just have been ending.
                if not isinstance(error, LabError) or attempt == _ATTEMPTS:
                    raise
                self._release()
            else:
                return command
        raise HostLacksError(f"run {name} in the lab", "no lab starts it")

    def _connect(self) -> socket.socket:
        connection = starting.connect_if_met(self._wishes)
        if connection is not None:
            return connection
        connection, starter = starting.share(self._wishes.settings())
        if starter is not None:
            self._release()
            self._held = starter
        return connection

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
