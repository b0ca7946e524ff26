# SPDX-License-Identifier: MIT
"""Lines that somebody types at a terminal, or that come from a file or a pipe."""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

_MOST = 4096
"""Bytes of a line: more is cut off."""


class TypedLines:
    """Lines of a descriptor, which is not owned. Used by one task."""

    def __init__(self, fd: int, show: Callable[[str], None]) -> None:
        """`show` writes a prompt."""
        self._fd = fd
        self._show = show
        self._left = b""
        self._has_ended = False

    async def ask(self, prompt: str) -> str | None:
        """Show a prompt, and wait for a line, which is given without its end; None at the end."""
        if prompt:
            self._show(prompt)
        while b"\n" not in self._left and not self._has_ended:
            await self._read()
        line, newline, rest = self._left.partition(b"\n")
        if not newline and not line:
            return None
        self._left = rest
        return line[:_MOST].decode("utf-8", "replace").rstrip("\r")

    async def _read(self) -> None:
        try:
            # Files are always readable, which epoll does not say of them.
            await trio.lowlevel.wait_readable(self._fd)
        except OSError:
            await trio.lowlevel.checkpoint()
        try:
            data = os.read(self._fd, _MOST)
        except BlockingIOError:
            return
        except OSError:  # The terminal has hung up.
            data = b""
        self._has_ended = not data
        self._left += data
        if len(self._left) > _MOST and b"\n" not in self._left:
            self._left = self._left[:_MOST]
