# SPDX-License-Identifier: MIT
"""passt: a user-mode network stack, as a child at the other end of a socket pair (passt(1)).

It ends when our end of the pair is closed, however that comes about. No path is involved.
"""

from __future__ import annotations

import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Final

from pyvmm.errors import HostLacksError, PyvmmError, SystemCallError, UsageError
from pyvmm.net.forwards import Forward, ForwardProtocol
from pyvmm.net.frames import HEADER_SIZE, WireEndedError
from pyvmm.net.host_ports import check_ports
from pyvmm.net.stream_wire import StreamWire
from pyvmm.signal_names import signal_name
from pyvmm.visible import visible

PROGRAM: Final = "passt"
ATTEMPT: Final = "start a user-mode network"
MOST_MTU: Final = 65_520
"""Bytes of the largest MTU that it may be given."""

_START_PATIENCE: Final = 2.0
"""Seconds until passt has answered; then it is taken to be there if it has not ended."""
_END_PATIENCE: Final = 2.0
"""Seconds until it has ended after its socket has."""
_MOST_SAID: Final = 400
_UNINTERESTING: Final = re.compile(r"Failed to send \d+ bytes to syslog|Don't run as root.*|\s*")

_ASKER: Final = bytes.fromhex("02 50 41 53 53 54")
_QUESTION: Final = (
    b"\xff" * 6 + _ASKER + bytes.fromhex("0806 0001 0800 06 04 0001")
    + _ASKER + bytes((192, 0, 0, 8)) + bytes(6) + bytes((192, 0, 0, 9))
)  # fmt: skip
"""ARP: who has 192.0.0.9? (Nobody, by RFC 7335; but passt answers for all but its guest.)"""


class PasstWire(StreamWire):
    """A wire to a passt, which is this object's child."""

    def __init__(
        self,
        connection: socket.socket,
        process: subprocess.Popen[bytes],
        errors: int,
        mtu: int | None,
    ) -> None:
        """Take over what `_start` has made; `errors` has what passt says."""
        super().__init__(connection, mtu, self._why)
        self._process = process
        self._errors = errors
        self._said = b""

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    def close(self) -> None:
        """Close the socket, and wait until passt has ended. Once."""
        super().close()
        if self._errors < 0:
            return
        if not self._has_ended(_END_PATIENCE):
            self._process.kill()
            self._process.wait()
        os.close(self._errors)
        self._errors = -1

    def await_start(self) -> None:
        """Wait until it serves. Raises `HostLacksError` where it has ended instead."""
        queue = self.queues[0]
        answer = [memoryview(bytearray(HEADER_SIZE + len(_QUESTION)))]
        until = time.monotonic() + _START_PATIENCE
        try:
            queue.send([memoryview(bytes(HEADER_SIZE)), memoryview(_QUESTION)])
            poll = select.poll()  # Which takes any descriptor, and select(2) none above 1023.
            poll.register(queue, select.POLLIN)
            while (left := until - time.monotonic()) > 0:
                poll.poll(left * 1000)
                try:
                    queue.receive(answer)
                except BlockingIOError:
                    continue
                break
        except WireEndedError as error:
            raise _refused(str(error)) from error
        # What it has said so far is what it always says, and its pipe has room again.
        self._read_errors()
        self._said = b""

    def _why(self) -> str:
        """Say how passt has ended, and what it has said."""
        if not self._has_ended(_END_PATIENCE):
            return "passt has closed its socket"
        code = self._process.returncode
        ending = f"exit code {code}"
        if code < 0:
            ending = signal_name(-code)
        self._read_errors()
        lines = self._said.decode(errors="replace").splitlines()
        said = "; ".join(line for line in lines if not _UNINTERESTING.fullmatch(line))
        return f"passt has ended with {ending}" + (
            f": {visible(said[-_MOST_SAID:])}" if said else ""
        )

    def _has_ended(self, patience: float) -> bool:
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read_errors(self) -> None:
        try:
            while some := os.read(self._errors, 4096):
                self._said = (self._said + some)[-4096:]
        except BlockingIOError:
            pass


def open_passt(forwards: Iterable[Forward] = (), mtu: int | None = None) -> PasstWire:
    """Start a passt that forwards these ports, and wait until it serves.

    It tells the guest the MTU `mtu` (bytes), if any. Raises `UsageError` for one that is too large,
    `HostLacksError` where there is no passt, or none that could run here, and what `check_ports`
    raises.
    """
    if mtu is not None and mtu > MOST_MTU:
        raise UsageError(f"{ATTEMPT} with an MTU of {mtu}", f"passt's is at most {MOST_MTU}")
    forwards = tuple(forwards)
    check_ports(forwards)
    wire = _start(_options(forwards, mtu), mtu)
    try:
        wire.await_start()
    except BaseException:
        wire.close()
        raise
    return wire


def _options(forwards: Sequence[Forward], mtu: int | None) -> list[str]:
    """Make its options. What is not said here it takes from this machine's own network."""
    options = [] if mtu is None else ["--mtu", str(mtu)]
    for option, protocol in (("-t", ForwardProtocol.TCP), ("-u", ForwardProtocol.UDP)):
        asked = [forward for forward in forwards if forward.protocol is protocol]
        for forward in asked:
            address = f"{forward.host_address}/" if forward.host_address else ""
            options += [option, f"{address}{forward.host_port}:{forward.guest_port}"]
        if not asked:
            # Or UDP's ports were those of TCP.
            options += [option, "none"]
    return options


def _start(options: Sequence[str], mtu: int | None) -> PasstWire:
    with ExitStack() as unwanted, ExitStack() as its_own:
        ours, its = socket.socketpair()
        unwanted.callback(ours.close)
        its_own.callback(its.close)
        errors, to_errors = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        unwanted.callback(os.close, errors)
        its_own.callback(os.close, to_errors)
        command = [PROGRAM, "--foreground", "--quiet", "--fd", str(its.fileno()), *options]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=to_errors,
                pass_fds=[its.fileno()],
                cwd="/",
                # A terminal's signals are not for it: it ends when we do.
                process_group=0,
            )
        except FileNotFoundError as error:
            remedy = "install passt (Debian has it), or give --net tap"
            raise HostLacksError(ATTEMPT, "there is no passt", remedy) from error
        except OSError as error:
            cause = f"passt: {error.strerror}"
            raise SystemCallError(ATTEMPT, error.errno or 0, cause) from error
        unwanted.pop_all()
        return PasstWire(ours, process, errors, mtu)


def _refused(why: str) -> PyvmmError:
    remedy = "see passt(1)"
    if "Failed to bind" in why:
        remedy = "give a port from 1024 on; there may be no default route for IPv6"
    elif "sandbox" in why:
        remedy = "it needs user, PID, IPC and UTS namespaces of the kernel; or give --net tap"
    elif "interface not usable" in why:
        remedy = "give this machine a default route (ip route), or give --net tap"
    return HostLacksError(ATTEMPT, why, remedy)
