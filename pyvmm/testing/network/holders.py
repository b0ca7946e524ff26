# SPDX-License-Identifier: MIT
"""Holders of networks from a test's side: their process is started, asked, and ended."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress

from pyvmm.errors import InternalError, PyvmmError, SystemCallError, UsageError
from pyvmm.hosts.owner import Owner
from pyvmm.testing.drivers.driver import CannotError, Feature
from pyvmm.testing.drivers.monitors import HostName
from pyvmm.testing.failures import is_told
from pyvmm.testing.network import channel as channels
from pyvmm.testing.network.messages import (
    Answer,
    OpenNetwork,
    Refusal,
    RefusalKind,
    Request,
    read_answer,
    written,
)

__tracebackhide__ = is_told

PATIENCE = 300.0
"""Seconds after which a process that does not answer is taken for hung."""
_TO_END = 10.0
"""Seconds that it gets to end by itself once its channel has."""
_GONE = "its process has ended"
_MAIN = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from pyvmm.testing.network.holder import main; main(sys.argv[1:])"
)


class Asked(Owner):
    """A process that answers requests over a channel, one at a time, from any thread."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._channel.settimeout(PATIENCE)
        self._lock = threading.Lock()

    def ask(self, request: Request, *descriptors: int) -> tuple[Answer, list[int]]:
        """Have it do something; the descriptors that are returned are the caller's.

        Raises `CannotError` for what this machine does not do, `UsageError`, `SystemCallError`, and
        `InternalError` where the process has gone.
        """
        attempt = f"do {type(request).__name__} in the network"
        with self._lock:
            try:
                channels.send(self._channel, written(request), descriptors)
                return self.answer()
            except TimeoutError:
                raise InternalError(attempt, f"no answer within {PATIENCE:g} s") from None
            except ConnectionError as error:
                raise InternalError(attempt, _GONE) from error
            except OSError as error:
                raise InternalError(attempt, str(error)) from error

    def answer(self) -> tuple[Answer, list[int]]:
        """Wait for an answer. Raises as `ask`, and `OSError`."""
        data, descriptors = channels.receive(self._channel)
        if not data:
            raise ConnectionResetError(0, _GONE)
        answer = read_answer(data)
        if isinstance(answer, Refusal):
            raise _error(answer)
        return answer, descriptors

    def close(self) -> None:
        """End the channel."""
        self._channel.close()


def _error(refusal: Refusal) -> PyvmmError:
    match refusal.kind:
        case RefusalKind.USAGE:
            return UsageError(refusal.attempt, refusal.cause, refusal.remedy)
        case RefusalKind.LACKS:
            remedy = f"; {refusal.remedy}" if refusal.remedy else ""
            reason = f"{refusal.cause} (to {refusal.attempt}){remedy}"
            return CannotError(HostName.AUTO, Feature.NETWORK, reason)
        case RefusalKind.DEFECT:
            return InternalError(refusal.attempt, refusal.cause)
        case RefusalKind.SYSTEM_CALL:
            return SystemCallError(refusal.attempt, refusal.errno, refusal.cause, refusal.remedy)


class Holder(Asked):
    """The process of one network; `close` ends it, and is over when it has ended."""

    def __init__(self, channel: socket.socket, pidfd: int) -> None:
        """Take over both."""
        super().__init__(channel)
        self._pidfd = pidfd

    def close(self) -> None:
        """End it, once, and with it the namespace."""
        super().close()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd < 0:
            return
        try:
            if not _is_over(pidfd, _TO_END):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _is_over(pidfd, _TO_END)
        finally:
            os.close(pidfd)


def _is_over(pidfd: int, seconds: float) -> bool:
    waiting = select.poll()
    waiting.register(pidfd, select.POLLIN)
    return bool(waiting.poll(seconds * 1000))


class Holders(Asked):
    """The process whose children hold networks; it ends with this one, however that ends."""

    def __init__(self) -> None:
        """Start it. Raises `SystemCallError`."""
        with ExitStack() as stack:
            try:
                near, far = channels.pair()
                stack.callback(near.close)
                with far:
                    self._process = subprocess.Popen(
                        [
                            *(sys.executable, "-c", _MAIN, json.dumps(sys.path)),
                            *(str(far.fileno()), str(os.getpid())),
                        ],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        pass_fds=(far.fileno(),),
                        # Ctrl-C is for the tests, which end it.
                        start_new_session=True,
                    )
            except OSError as error:
                raise SystemCallError(
                    "start the process that holds networks", error.errno or 0, str(error)
                ) from error
            super().__init__(near)
            stack.pop_all()

    def open(self, request: OpenNetwork) -> Holder:
        """Make a network in a namespace of its own. Raises as `ask`."""
        near, far = channels.pair()
        with ExitStack() as stack:
            stack.callback(near.close)
            with far:
                _, (pidfd,) = self.ask(request, far.fileno())
            holder = stack.enter_context(Holder(near, pidfd))
            try:
                holder.answer()
            except OSError as error:
                raise InternalError("make a network", _GONE) from error
            stack.pop_all()
            return holder

    def close(self) -> None:
        """End it, once; networks that are still open end with their own channels."""
        super().close()
        try:
            self._process.wait(_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
