# SPDX-License-Identifier: MIT
"""Pipes of a guest's console whose other ends are standard input and output of a child."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from contextlib import suppress

import trio

from pyvmm.errors import SystemCallError

WAITING_MAX = 16 << 20
"""Bytes that wait here for a reader; then they wait in the pipe, and after that the guest does."""
_ROOM = 1 << 20
"""Bytes that the pipe should take: what a child leaves there when it ends is not lost."""


class ConsolePipes:
    """Both directions of a console. Whoever makes it runs `pump`, and calls `close`.

    The child's ends stay open here until `end`, so that one child can follow another.
    """

    def __init__(self) -> None:
        """Make the pipes. Raises `SystemCallError` where the kernel has none left."""
        fds: list[int] = []
        try:
            fds += os.pipe2(os.O_CLOEXEC)
            fds += os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise SystemCallError(
                "make the console's pipes", error.errno or 0, error.strerror or ""
            ) from error
        self.child_input, writing, reading, self.child_output = fds
        with suppress(OSError):  # An unprivileged user may have no more of it.
            fcntl.fcntl(self.child_output, fcntl.F_SETPIPE_SZ, _ROOM)
        self._output = trio.lowlevel.FdStream(reading)
        self._input = trio.lowlevel.FdStream(writing)
        self._passed = 0
        self._waiting = bytearray()
        self._drained = False
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def said(self) -> int:
        """Bytes that the child has written by now, read or not. Before `end`."""
        left = fcntl.ioctl(self.child_output, termios.FIONREAD, bytes(4))
        return self._passed + int.from_bytes(left, sys.byteorder)

    async def receive(self) -> bytes:
        """Take what has come, at least a byte; b"" after `end`, when there is nothing left."""
        while not self._waiting and not self._drained:
            await self._changed.park()
        taken = bytes(self._waiting)
        self._waiting.clear()
        self._changed.unpark_all()
        return taken

    async def send(self, data: bytes) -> bool:
        """Send `data` to the child, all of it; False where it has ended."""
        try:
            await self._input.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        return True

    def end(self) -> None:
        """No child writes any more: `receive` comes to the end, `send` fails."""
        for name in ("child_input", "child_output"):
            fd = getattr(self, name)
            if fd >= 0:
                setattr(self, name, -1)
                os.close(fd)

    async def pump(self) -> None:
        """Take what comes, until the end."""
        with suppress(trio.ClosedResourceError):
            async for data in self._output:
                self._passed += len(data)
                self._waiting += data
                self._changed.unpark_all()
                while len(self._waiting) >= WAITING_MAX:
                    await self._changed.park()
        self._drained = True
        self._changed.unpark_all()

    async def close(self) -> None:
        """Give all descriptors back."""
        self.end()
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._output)
            await trio.aclose_forcefully(self._input)
