# SPDX-License-Identifier: MIT
"""Devices that are asked for by name (``--device``), beside those that every machine has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.devices import ports
from pyvmm.errors import UsageError

if TYPE_CHECKING:
    from pyvmm.devices.placement import PlacedDevice
    from pyvmm.machine.wiring import Wiring

MOST_EXIT_BYTES = 4
"""The widest exit port, in ports: QEMU's ``iosize`` has room for more, and no access is wider."""


@dataclass(frozen=True, slots=True)
class ExitPortPlace:
    """Place of another exit port: `length` I/O ports from `start` on. Raises `UsageError`."""

    start: int
    length: int

    def __post_init__(self) -> None:
        end = self.start + self.length
        if not (0 < self.length <= MOST_EXIT_BYTES and 0 <= self.start < ports.PORT_SPACE_SIZE):
            raise UsageError(
                f"put an exit port at {self.start:#x}, {self.length} ports long",
                f"it has 1 to {MOST_EXIT_BYTES} ports, below {ports.PORT_SPACE_SIZE:#x}",
                "give iobase=0xf4,iosize=4",
            )
        if end > ports.PORT_SPACE_SIZE:
            raise UsageError(
                f"put an exit port at {self.start:#x}", "it does not end there", "give iosize=1"
            )


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """Devices that the user asked for.

    `exit_ports` beside the two that there are; `whole_test_device`: pc-testdev's second bank has
    all of its ports, and there is no debug console in it. `added` are devices that the library's
    user has made, each by a function of the machine's wiring; `pci`: some are for a PCI bus.
    """

    exit_ports: tuple[ExitPortPlace, ...] = ()
    whole_test_device: bool = False
    added: tuple[Callable[[Wiring], PlacedDevice], ...] = ()
    pci: bool = False
