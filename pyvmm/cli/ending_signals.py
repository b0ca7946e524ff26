# SPDX-License-Identifier: MIT
"""The signals that end a command, from its first moment to its last.

`trio` takes them while a guest runs. Before and after that they are taken here, so that none ends
the process in the middle of something, or with another exit code than the one that says so.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from pyvmm.errors import ExitCode

_ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)
"""Those that end a process, may be caught, and do not speak of a crash."""

_PATIENCE = 2
"""Seconds that a command which is interrupted at its end gets to finish."""


def ending_signals() -> tuple[signal.Signals, ...]:
    """Those that this process was not told to ignore (nohup; a shell's ``command &``)."""
    return tuple(number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN)


class EndingSignals:
    """Current action of the ending signals. Nothing is changed before `exit_at_once`."""

    def __init__(self) -> None:
        self._before: dict[signal.Signals, signal._HANDLER] = {}
        self._act = self._exit
        self._first: signal.Signals | None = None
        self._deadline: float | None = None

    def exit_at_once(self) -> None:
        """End the process, with a line and `ExitCode.INTERRUPTED`: there is nothing to undo."""
        for number in ending_signals():
            self._before[number] = signal.signal(number, self._handle)

    def hold(self) -> None:
        """Keep the first one for `raise_held`."""
        self._act = self._hold

    @property
    def has_held(self) -> bool:
        """True once one came that was kept."""
        return self._first is not None

    def raise_held(self) -> None:
        """Raise `KeyboardInterrupt` if one came meanwhile; from here on trio takes them.

        Those that come when trio is over leave the command a moment to say how it ended.
        """
        self._act = self._hurry
        if self._first is not None:
            raise KeyboardInterrupt(_words(self._first))

    def release(self) -> None:
        """Back to what was before, for a command with ways of its own."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        """Nothing, from now on to the end of the process."""
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._first = self._first or signal.Signals(number)
        self._act(self._first)

    def _exit(self, first: signal.Signals) -> None:
        self._act = self._hold
        with suppress(OSError):
            if select.select([], [2], [], 0)[1]:  # It may be what this command hangs on.
                os.write(2, f"pyvmm: {_words(first)}\n".encode())
        os._exit(ExitCode.INTERRUPTED)

    def _hold(self, first: signal.Signals) -> None:
        pass

    def _hurry(self, first: signal.Signals) -> None:
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + _PATIENCE / 2
            signal.alarm(_PATIENCE)
        elif now > self._deadline:
            self._exit(first)


@contextmanager
def interrupting_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP do what Ctrl-C does, raise `KeyboardInterrupt`: no child is left.

    But not where we were started to ignore them, by nohup say.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(_words(signal.Signals(number)))

    numbers = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _words(number: signal.Signals) -> str:
    return f"interrupted by {number.name}"
