# SPDX-License-Identifier: MIT
"""Wiring: how devices reach the machine that they are in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pyvmm.devices.fw_cfg import GuestBytes, Item
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.device_interrupts import DeviceInterrupts
from pyvmm.machine.ending import Ending
from pyvmm.machine.leases import Leases

if TYPE_CHECKING:
    from pyvmm.machine.pci.bus import PciBus


class Wiring(NamedTuple):
    """Callbacks and values by which devices reach the machine. No callback takes a device's guard.

    `memory` is the size of RAM in bytes; `end` ends the run, `reset` resets the machine; `console`
    takes what the guest says. `interrupts` makes lines, messages and doorbells; None: nobody takes
    any. `fw_cfg` makes the items that the guest is told, and `dma` is how it reaches guest memory;
    None: there is no fw_cfg. `launched` is for the launch port of a private machine, `leases` for
    backends that work on guest memory; `pci` is the bus of a machine that has one.
    """

    memory: int
    console: ConsolePort
    end: Callable[[Ending], None]
    reset: Callable[[], None]
    interrupts: DeviceInterrupts | None = None
    fw_cfg: Callable[[], Mapping[int, Item]] = dict
    dma: GuestBytes | None = None
    launched: Callable[[], None] | None = None
    leases: Leases | None = None
    pci: PciBus | None = None

    @property
    def has_controllers(self) -> bool:
        """True on a machine with interrupt controllers and a timer."""
        return self.interrupts is not None and self.interrupts.has_controllers

    def line(self, gsi: int, owner: str) -> Callable[[bool], None] | None:
        """Return the function that sets `owner`'s line to a GSI; None without controllers."""
        return None if self.interrupts is None else self.interrupts.level(gsi, owner)

    def pins(self, owner: str) -> Callable[[int, bool], None] | None:
        """Return the function that sets `owner`'s line to any GSI; None without controllers."""
        if self.interrupts is None or not self.interrupts.has_controllers:
            return None
        return partial(self.interrupts.set_pin, owner)
