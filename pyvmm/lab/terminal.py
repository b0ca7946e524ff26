# SPDX-License-Identifier: MIT
"""Our terminal, if we have one, for a command that gets one of its own in the lab."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

from pyvmm.lab.protocol import StartFlag, WindowSize

if TYPE_CHECKING:
    from pyvmm.machine.console.terminal import RawTerminal

_OFLAG = 1


def descriptor_flags() -> StartFlag:
    """Find which of our descriptors 0, 1 and 2 are terminals, and which were closed at start."""
    flags = StartFlag(0)
    for fd in range(3):
        # One that we were given is inheritable: main opened those that were missing.
        if not os.get_inheritable(fd):
            flags |= StartFlag(StartFlag.CLOSED_INPUT << fd)
        elif os.isatty(fd):
            flags |= StartFlag(StartFlag.TERMINAL_INPUT << fd)
    return flags


class OurTerminal:
    """The terminal among our descriptors: raw while the command has it, and back on every way out.

    Raw means that the lab's own terminal does all there is to do: echo, line editing, the signal of
    Ctrl-C. Only standard input makes it raw; a terminal that only shows output stays as it is.
    """

    def __init__(self, flags: StartFlag) -> None:
        terminals = [fd for fd in range(3) if flags & (StartFlag.TERMINAL_INPUT << fd)]
        # Output goes to the descriptor meant for it; they are one and the same terminal.
        self.output_fd: int | None = max(terminals, key=lambda fd: (fd == 1, fd), default=None)
        self._reads = bool(flags & StartFlag.TERMINAL_INPUT)
        self._all = len(terminals) == 3
        self._raw: RawTerminal | None = None

    @property
    def may_read(self) -> bool:
        """True if reading standard input does not stop us as a background job."""
        if not self._reads:
            return True
        from pyvmm.machine.console.terminal import is_foreground_terminal

        return is_foreground_terminal(0)

    def size(self) -> WindowSize:
        """Rows, columns, and both in pixels."""
        packed = bytes(8)
        if self.output_fd is not None:
            with suppress(OSError):
                packed = fcntl.ioctl(self.output_fd, termios.TIOCGWINSZ, packed)
        rows, columns, wide, high = struct.unpack("4H", packed)
        return rows, columns, wide, high

    def enter(self) -> None:
        """Go raw, if it is ours to read."""
        if not self._reads or not self.may_read:
            return
        from pyvmm.machine.console.terminal import RawTerminal

        if self._raw is None:
            self._raw = RawTerminal(0)
        self._raw.enter()
        if self._all:
            # Nobody else writes here: what the lab's terminal made of a newline stays so.
            attributes = termios.tcgetattr(0)
            attributes[_OFLAG] &= ~termios.OPOST
            termios.tcsetattr(0, termios.TCSANOW, attributes)

    def leave(self) -> None:
        """As it was before, for a while."""
        if self._raw is not None:
            self._raw.restore()

    def come_back(self) -> None:
        """Raw again, if it was."""
        if self._raw is not None:
            self.enter()

    def close(self) -> None:
        """As it was before, for good."""
        if self._raw is not None:
            self._raw.close()
            self._raw = None
