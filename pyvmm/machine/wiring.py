# SPDX-License-Identifier: MIT
"""Wiring: how devices reach the machine that they are in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from pyvmm.devices.fw_cfg import GuestBytes, Item
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.ending import Ending


@dataclass(frozen=True, slots=True)
class Wiring:
    """Callbacks and values by which devices reach the machine. No callback takes a device's guard.

    `memory` is the size of RAM in bytes; `end` ends the run, `reset` resets the machine; `console`
    takes what the guest says. `set_irq_line(gsi, level)` is None on a machine without interrupt
    controllers. `fw_cfg` makes the items that the guest is told, and `dma` is how it reaches guest
    memory; None: there is no fw_cfg. `launched` is for the launch port of a private machine.
    """

    memory: int
    console: ConsolePort
    end: Callable[[Ending], None]
    reset: Callable[[], None]
    set_irq_line: Callable[[int, bool], None] | None = None
    fw_cfg: Callable[[], Mapping[int, Item]] = dict
    dma: GuestBytes | None = None
    launched: Callable[[], None] | None = None

    def line(self, gsi: int) -> Callable[[bool], None] | None:
        """Return the function that sets interrupt line `gsi`; None without controllers."""
        return None if self.set_irq_line is None else partial(self.set_irq_line, gsi)
