# SPDX-License-Identifier: MIT
"""``pyvmm demo`` on a terminal, and the screen that its reader sees."""

from __future__ import annotations

import fcntl
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyte

from ...cli.command import HANG
from ...console.on_terminal import Terminal


class ScreenTerminal(Terminal):
    """A terminal of a size, whose screen pyte keeps."""

    def __init__(self, columns: int, rows: int) -> None:
        super().__init__()
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.resize(columns, rows)

    def demo(self, *arguments: str, **env: str) -> None:
        """Start the demo on the model, in colour but for `env`."""
        self.run("demo", *arguments, env={"TERM": "xterm-256color", "NO_COLOR": "", **env})

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size, which the command is told by a signal."""
        self.screen.resize(rows, columns)
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def look(self, wait: float = 0.0) -> None:
        before = len(self.seen)
        super().look(wait)
        self._stream.feed(self.seen[before:])

    @property
    def rows(self) -> list[str]:
        """The screen's rows without blanks at their ends."""
        return [row.rstrip() for row in self.screen.display]

    def until_shown(self, *texts: str) -> None:
        """Wait until all of these are on the screen at once."""
        self._until(
            lambda: all(any(text in row for row in self.screen.display) for text in texts), texts
        )

    def until_rows(self, rows: list[str]) -> None:
        """Wait until the screen is just this."""
        self._until(lambda: self.rows == rows, rows)

    def _until(self, is_there: Callable[[], bool], wanted: object) -> None:
        deadline = time.monotonic() + HANG
        assert self.process is not None
        while not is_there():
            has_ended = self.process.poll() is not None
            assert time.monotonic() < deadline, f"never came: {wanted}; but {self.rows}"
            self.look(0.05)
            assert is_there() or not has_ended, f"it ended without {wanted}: {self.rows}"


@contextmanager
def screen_terminal(columns: int = 80, rows: int = 24) -> Iterator[ScreenTerminal]:
    """A terminal of that size, until the end of the block."""
    new = ScreenTerminal(columns, rows)
    try:
        yield new
    finally:
        new.close()
