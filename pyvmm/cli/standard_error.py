# SPDX-License-Identifier: MIT
"""Standard error: what the command itself says, never the guest."""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from pyvmm.cli.standard_output import encoded

if TYPE_CHECKING:
    from typing import TextIO

_PATIENCE = 2.0
"""Seconds that a reader of a standard error that does not block gets to make room."""


def write_to_user(text: str) -> None:
    """Show `text`. Where nobody can read it any more the exit code has to say it all."""
    _write(sys.stderr, text)


def say_to_user(text: str) -> None:
    """Show one line with our name before it, whatever is in `text`: names may hold anything."""
    from pyvmm.visible import visible

    write_to_user(f"pyvmm: {visible(text)}\n")


def user_stream() -> TextIO:
    """Standard error for a library that writes to streams: as `write_to_user`, it never fails."""
    return cast("TextIO", _UserStream())


class _UserStream:
    """As much of a text stream as rich and `pyvmm.lab.kernel.progress` use.

    It keeps to what ``sys.stderr`` was when it was made: rich puts something of its own there.
    """

    def __init__(self) -> None:
        self._stream = sys.stderr
        self.encoding = self._stream.encoding

    def write(self, text: str) -> int:
        _write(self._stream, text)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def _write(stream: TextIO, text: str) -> None:
    with suppress(OSError, ValueError):  # It may be closed, by a script of the shell's.
        stream.flush()
        try:
            fd = stream.fileno()
        except OSError:  # No file: who called us in the same process wants to have it.
            stream.write(text)
            return
        _write_while_there_is_hope(fd, encoded(text, stream.encoding))


def _write_while_there_is_hope(fd: int, data: bytes) -> None:
    left = memoryview(data)
    until = time.monotonic() + _PATIENCE
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:
            rest = until - time.monotonic()
            if rest <= 0:
                return
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll(rest * 1000)
