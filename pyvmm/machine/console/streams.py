"""File descriptors as console streams, without ever blocking the trio thread on them.

A descriptor that we were given may share its file description with other processes, so setting
O_NONBLOCK on it would change it for them too. Pipes and terminals are opened anew through
``/proc/self/fd`` instead; regular files never block; sockets have MSG_DONTWAIT.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

import trio

from pyvmm.errors import SystemCallError

READ_SIZE = 1 << 16


class _Descriptor:
    """An fd with a way to wait for it. Owns the fd that it opened, never the one it was given."""

    def __init__(self, fd: int, flags: int) -> None:
        self.given = fd
        mode = os.fstat(fd).st_mode
        self._owned = -1
        self._waits = True
        self._is_socket = stat.S_ISSOCK(mode)
        if stat.S_ISREG(mode):
            self._waits = False
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class OutputDescriptor(_Descriptor):
    """Somewhere to write to."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, os.O_WRONLY)

    async def write_some(self, data: memoryview) -> int:
        """Write at least a byte of `data`; how many. Raises `SystemCallError`."""
        while True:
            await self._wait(writable=True)
            try:
                if self._is_socket:
                    with socket.socket(fileno=os.dup(self.fd)) as sock:
                        return sock.send(data, socket.MSG_DONTWAIT)
                # PIPE_BUF is what a writable pipe takes without waiting (pipe(7)).
                return os.write(
                    self.fd, data if self._owned >= 0 or not self._waits else data[:4096]
                )
            except BlockingIOError:
                continue
            except OSError as error:
                raise SystemCallError(
                    f"write the guest's console to file descriptor {self.given}",
                    error.errno or 0,
                    error.strerror or str(error),
                    "keep its reader alive until the guest has ended",
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
                    f"read the guest's console from file descriptor {self.given}",
                    error.errno or 0,
                    error.strerror or str(error),
                ) from error
