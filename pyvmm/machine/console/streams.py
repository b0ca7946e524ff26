# SPDX-License-Identifier: MIT
"""File descriptors as console streams, without ever blocking the trio thread on them.

A descriptor that we were given may share its file description with other processes, so setting
O_NONBLOCK on it would change it for them too. Pipes and terminals are opened anew through
``/proc/self/fd`` instead; regular files never block; sockets have MSG_DONTWAIT. A pseudo-terminal's
master cannot be opened anew (that makes another one): its transfers are no larger than what poll
promises.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from pyvmm.errors import SystemCallError
from pyvmm.hosts.owner import Owner

READ_SIZE = 1 << 16

_PIPE_BUF = 4096
"""Bytes that a writable pipe takes without waiting (pipe(7))."""
_TERMINAL_ROOM = 256
"""Bytes that a writable terminal takes without waiting: the least that its driver allocates."""
_TIOCGPTN = 0x80045430
"""Asks a pseudo-terminal's master for its number (ioctl_tty(2)); nothing else answers."""

_NAMES = {0: "standard input", 1: "standard output", 2: "standard error"}


def is_pseudo_terminal_master(fd: int) -> bool:
    """Tell whether `fd` is the side of a pseudo-terminal that a terminal emulator has."""
    try:
        fcntl.ioctl(fd, _TIOCGPTN, bytes(4))
    except OSError:
        return False
    return True


def _allows(fd: int, direction: int) -> bool:
    """Tell whether `fd` was opened for `direction`, O_RDONLY or O_WRONLY."""
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE in (direction, os.O_RDWR)


class _Descriptor(Owner):
    """An fd with a way to wait for it. Owns the fd that it opened, never the one it was given."""

    def __init__(self, fd: int, flags: int) -> None:
        self.given = fd
        mode = os.fstat(fd).st_mode
        self._owned = -1
        self._waits = True
        self._is_socket = stat.S_ISSOCK(mode)
        self._promised = _TERMINAL_ROOM if stat.S_ISCHR(mode) else _PIPE_BUF
        if stat.S_ISREG(mode) or not _allows(fd, flags):
            # What was opened for the other direction is not opened anew: each transfer fails.
            self._waits = False
        elif stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and not is_pseudo_terminal_master(fd)):
            # Not possible where /proc is missing or the file's mode denies it: then each transfer
            # is at most what a poll promised, which only another user of the same file can break.
            with suppress(OSError):
                self._owned = os.open(
                    f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                )
        self.fd = self._owned if self._owned >= 0 else fd

    async def _wait(self, *, writable: bool) -> None:
        if not self._waits:
            await trio.lowlevel.checkpoint()
            return
        try:
            if writable:
                await trio.lowlevel.wait_writable(self.fd)
            else:
                await trio.lowlevel.wait_readable(self.fd)
        except PermissionError:
            # epoll's word for "never blocks": /dev/null and its kin.
            self._waits = False

    def close(self) -> None:
        if self._owned >= 0:
            os.close(self._owned)
            self._owned = -1
            self.fd = -1


class OutputDescriptor(_Descriptor):
    """Somewhere to write to; `name` is what errors call it."""

    def __init__(self, fd: int, name: str | None = None) -> None:
        super().__init__(fd, os.O_WRONLY)
        self._name = name or _NAMES.get(fd, f"file descriptor {fd}")

    async def write_some(self, data: memoryview) -> int:
        """Write at least a byte of `data`; how many. Raises `SystemCallError`."""
        while True:
            await self._wait(writable=True)
            try:
                if self._is_socket:
                    with socket.socket(fileno=os.dup(self.fd)) as sock:
                        return sock.send(data, socket.MSG_DONTWAIT)
                never_blocks = self._owned >= 0 or not self._waits
                return os.write(self.fd, data if never_blocks else data[: self._promised])
            except BlockingIOError:
                continue
            except OSError as error:
                remedy = "keep its reader alive until the guest has ended"
                raise SystemCallError(
                    f"write the guest's console to {self._name}",
                    error.errno or 0,
                    error.strerror or str(error),
                    remedy if isinstance(error, BrokenPipeError) else "",
                ) from error


class InputDescriptor(_Descriptor):
    """Somewhere to read from; `may_read`, where given, returns when that is allowed."""

    def __init__(self, fd: int, may_read: Callable[[], Awaitable[None]] | None = None) -> None:
        super().__init__(fd, os.O_RDONLY)
        self._may_read = may_read

    async def read_some(self) -> bytes:
        """At least a byte, or b"" at the end of the file. Raises `SystemCallError`."""
        while True:
            await self._wait(writable=False)
            if self._may_read is not None:
                await self._may_read()
            try:
                return os.read(self.fd, READ_SIZE)
            except BlockingIOError:
                continue
            except OSError as error:
                raise SystemCallError(
                    f"read the guest's console from {_NAMES.get(self.given, self.given)}",
                    error.errno or 0,
                    error.strerror or str(error),
                ) from error
