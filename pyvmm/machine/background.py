# SPDX-License-Identifier: MIT
"""Background tasks of a machine in its trio thread, beside its vCPUs and not driven by exits."""

from __future__ import annotations

import trio

from pyvmm.devices.protocols import Backend
from pyvmm.errors import told_error
from pyvmm.machine.assembly import Assembly
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.control import RunControl

POSTED_PAUSE = 0.002
"""Seconds between two looks at posted writes: many bytes for one wake-up, too short to notice."""


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
    except Exception as failure:  # noqa: BLE001 - told by `Control.wait`
        control.fail(failure)


async def serve_backend(control: RunControl, backend: Backend) -> None:
    """Run a device's backend; its failure is the run's."""
    try:
        await backend.serve()
    except Exception as failure:  # noqa: BLE001 - told by `Control.wait`
        # Of tasks beside each other, most often: theirs come in groups.
        control.fail(told_error(failure))
