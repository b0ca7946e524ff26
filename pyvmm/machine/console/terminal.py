# SPDX-License-Identifier: MIT
"""The terminal in raw mode while a guest has it, and back as it was on every way out."""

from __future__ import annotations

import atexit
import os
import signal
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pyvmm.machine.console.streams import is_pseudo_terminal_master

_CC = 6
_IFLAG, _OFLAG, _CFLAG, _LFLAG = range(4)


class RawTerminal:
    """A terminal that keystrokes go through unchanged, one at a time.

    Output processing stays on, so that a guest's newline is one on the screen. `restore` may be
    called from anywhere and more than once; it is also registered to run at interpreter exit.
    """

    def __init__(self, fd: int, *, signals: bool = False) -> None:
        """`signals`: keys that send signals (Ctrl-C, Ctrl-Z) still do, and Enter is a newline."""
        self._fd = fd
        self._signals = signals
        self._before: list[int | list[bytes | int]] | None = None

    def enter(self) -> None:
        """Go raw. Raises `termios.error` for what is no terminal."""
        if self._before is None:
            self._before = termios.tcgetattr(self._fd)
            atexit.register(self.restore)
        raw = termios.tcgetattr(self._fd)
        assert isinstance(raw[_IFLAG], int)
        assert isinstance(raw[_OFLAG], int)
        assert isinstance(raw[_CFLAG], int)
        assert isinstance(raw[_LFLAG], int)
        if not self._signals:
            raw[_IFLAG] &= ~(
                termios.IGNBRK
                | termios.BRKINT
                | termios.PARMRK
                | termios.ISTRIP
                | termios.INLCR
                | termios.IGNCR
                | termios.ICRNL
                | termios.IXON
            )
        raw[_OFLAG] |= termios.OPOST
        raw[_CFLAG] = (raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
        if not self._signals:
            raw[_LFLAG] &= ~termios.ISIG
        characters = raw[_CC]
        assert isinstance(characters, list)
        characters[termios.VMIN] = 1
        characters[termios.VTIME] = 0
        self._set(raw)

    def restore(self) -> None:
        """Back to how `enter` found it."""
        if self._before is not None:
            with suppress(termios.error):
                self._set(self._before)

    def close(self) -> None:
        """`restore`, for good."""
        self.restore()
        self._before = None
        atexit.unregister(self.restore)

    def _set(self, attributes: list[int | list[bytes | int]]) -> None:
        # A background process that sets a terminal's attributes is stopped, unless it blocks this.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            # TCSANOW: draining could wait for ever on a terminal whose output is held.
            termios.tcsetattr(self._fd, termios.TCSANOW, attributes)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def is_controlling_terminal(fd: int) -> bool:
    """Tell whether `fd` is the terminal that controls this process's session."""
    try:
        # A master answers for its slave, which is somebody else's terminal.
        return os.isatty(fd) and os.tcgetpgrp(fd) >= 0 and not is_pseudo_terminal_master(fd)
    except OSError:
        return False


def is_foreground_terminal(fd: int) -> bool:
    """Tell whether `fd` is a terminal and this process is in its foreground."""
    try:
        return os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


@contextmanager
def raw_terminal(fd: int) -> Iterator[RawTerminal]:
    """The terminal `fd` within the block: raw if we are in its foreground, else not yet."""
    terminal = RawTerminal(fd)
    try:
        if is_foreground_terminal(fd):
            terminal.enter()
        yield terminal
    finally:
        terminal.close()
