# SPDX-License-Identifier: MIT
"""The terminal of ``pyvmm run``: raw while the guest has it, and given back when it has not."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from pyvmm.cli.standard_error import write_to_user

if TYPE_CHECKING:
    from pyvmm.machine.console.monitor import Monitor
    from pyvmm.machine.console.terminal import RawTerminal
    from pyvmm.machine.machine import Machine


class RunTerminal:
    """Standard input, if it is the terminal that controls us: raw while the guest has it.

    In the background nothing is read from it or set: it is somebody else's until SIGCONT.
    """

    def __init__(self) -> None:
        self._raw: RawTerminal | None = None
        self._monitor: Monitor | None = None
        self._continued = trio.Event()
        self.is_ours = False
        self.job_signals: tuple[signal.Signals, ...] = ()
        if os.isatty(0):
            from pyvmm.machine.console.terminal import is_controlling_terminal

            self.is_ours = is_controlling_terminal(0)
        if self.is_ours:
            # What was to be ignored when we began is none of ours.
            self.job_signals = tuple(
                number
                for number in (signal.SIGTSTP, signal.SIGCONT)
                if signal.getsignal(number) is not signal.SIG_IGN
            )

    def enter(self, machine: Machine, stack: ExitStack) -> None:
        """Go raw until `stack` closes; keystrokes are `machine`'s from now on, or its monitor's."""
        if not self.is_ours:
            return
        from pyvmm.machine.console.monitor import Monitor
        from pyvmm.machine.console.terminal import raw_terminal

        self._monitor = Monitor(machine, write_to_user)
        self._raw = stack.enter_context(raw_terminal(0))

    async def keys(self, data: bytes) -> bytes:
        """Return the typed bytes that are for the guest."""
        return data if self._monitor is None else await self._monitor.keys(data)

    async def wait_for_foreground(self) -> None:
        """Wait, in the background, for a SIGCONT that brings us to the foreground."""
        from pyvmm.machine.console.terminal import is_foreground_terminal

        while not is_foreground_terminal(0):
            self._continued = trio.Event()
            await self._continued.wait()

    def suspend(self) -> None:
        """Stop this process as SIGTSTP asks, with the terminal as it was before."""
        if self._raw is not None:
            self._raw.restore()
        os.kill(os.getpid(), signal.SIGSTOP)

    def go_on(self) -> None:
        """Take the terminal again after SIGCONT, if we were put into the foreground."""
        from pyvmm.machine.console.terminal import is_foreground_terminal

        if self._raw is not None and is_foreground_terminal(0):
            self._raw.enter()
        self._continued.set()
