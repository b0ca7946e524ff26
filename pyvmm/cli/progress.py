# SPDX-License-Identifier: MIT
"""Progress of a long operation, on standard error: a bar on a terminal, else a line at times."""

from __future__ import annotations

import sys
import time

from pyvmm.cli.standard_error import write_to_user

QUIET = 2.0
"""Seconds during which nothing is said: most things are done by then."""
_BAR_EVERY = 0.2
_LINE_EVERY = 15.0
_WIDTH = 24


class Progress:
    """Call `tell` as often as you like, and `done` before anything else is printed."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._next = time.monotonic() + QUIET
        self._shown = 0

    def tell(self, what: str, done: int = 0, total: int = 0) -> None:
        """`done` of `total`; a total of 0 is not known."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_BAR_EVERY if self._is_terminal else _LINE_EVERY)
        numbers = f"{done} of {total}" if total else str(done) if done else ""
        if not self._is_terminal:
            write_to_user(f"pyvmm: {what} {numbers}".rstrip() + "\n")
            return
        full = min(_WIDTH, _WIDTH * done // total) if total else 0
        line = f"[{'#' * full}{'.' * (_WIDTH - full)}] {what} {numbers}"
        write_to_user("\r" + line.ljust(self._shown))
        self._shown = len(line)

    def done(self) -> None:
        """Take the bar away."""
        if self._shown:
            write_to_user("\r" + " " * self._shown + "\r")
            self._shown = 0
