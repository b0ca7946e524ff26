# SPDX-License-Identifier: MIT
"""Background tasks of a machine in its trio thread, beside its vCPUs and not driven by exits."""

from __future__ import annotations

import trio

from pyvmm.machine.assembly import Assembly
from pyvmm.machine.board import Board
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl

POSTED_PAUSE = 0.002
"""Seconds between two looks at posted writes: many bytes for one wake-up, too short to notice."""
CLOCK_PAUSE = 0.0005
"""Seconds between two looks at the clock: a guest that wants more interrupts gets fewer."""


async def pump_posted(control: RunControl, assembly: Assembly, console: ConsolePort) -> None:
    """Hand over what the host's fast path took, soon after it did; for ever."""
    posted = assembly.vm.posted
    board = assembly.board
    try:
        while True:
            await trio.lowlevel.wait_readable(posted.fileno())
            # A full console leaves it in the ring: when that is full too, the guest waits.
            await console.room()
            board.drain_posted()
            await trio.sleep(POSTED_PAUSE)
    except Exception as failure:  # noqa: BLE001 - told by `Machine.wait`
        control.fail(failure)


async def serve_clock(control: RunControl, board: Board) -> None:
    """Let the real-time clock interrupt when it is due; for ever.

    For machines with interrupt controllers.
    """
    try:
        while True:
            due = board.poll_clock()
            await control.tick(None if due is None else max(due, CLOCK_PAUSE))
    except Exception as failure:  # noqa: BLE001 - told by `Machine.wait`
        control.fail(failure)
