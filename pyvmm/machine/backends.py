# SPDX-License-Identifier: MIT
"""Backends of a PC's devices: tasks in the machine's nursery, for what no access of the guest's
starts. Each calls its device under the device's guard.
"""

from __future__ import annotations

import trio

from pyvmm.devices.cmos import Cmos
from pyvmm.devices.protocols import Guard
from pyvmm.devices.uart import Uart16550
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.loop_calls import call_soon

CLOCK_PAUSE = 0.0005
"""Seconds between two looks at the clock: a guest that wants more interrupts gets fewer."""


class ClockTask:
    """Lets the real-time clock interrupt when it is due."""

    def __init__(self, cmos: Cmos, guard: Guard) -> None:
        self._cmos = cmos
        self._guard = guard
        self._token: trio.lowlevel.TrioToken | None = None
        self._changed = trio.Event()
        cmos.on_change = self._tell

    async def serve(self) -> None:
        """Look at the clock when it is due, and after each change."""
        self._token = trio.lowlevel.current_trio_token()
        while True:
            # Before the look: a change that comes after it is not to be slept through.
            self._changed = trio.Event()
            with self._guard:
                due = self._cmos.poll()
            pause = float("inf") if due is None else max(due, CLOCK_PAUSE)
            with trio.move_on_after(pause):
                await self._changed.wait()

    def _tell(self) -> None:
        # From a vCPU's thread. Before `serve` has begun its first look is still to come.
        call_soon(self._token, self._set_changed)

    def _set_changed(self) -> None:
        self._changed.set()


class UartInput:
    """Gives a UART what arrives on the console, whenever it has room, and the end of it."""

    def __init__(self, console: ConsolePort, uart: Uart16550, guard: Guard) -> None:
        self._console = console
        self._uart = uart
        self._guard = guard
        uart.on_room = self._refill

    async def serve(self) -> None:
        """Deliver what has arrived, and from now on what arrives."""
        self._console.connect(self._deliver)
        try:
            self._deliver()
            await trio.sleep_forever()
        finally:
            self._console.disconnect()

    def _deliver(self) -> None:
        with self._guard:
            self._refill()

    def _refill(self) -> None:
        """Under the guard: the UART calls it, too, when the guest has read."""
        self._console.feed(self._uart.receive)
        if self._console.input_ended:
            self._uart.set_carrier(False)
