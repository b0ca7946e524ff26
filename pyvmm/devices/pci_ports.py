# SPDX-License-Identifier: MIT
"""Ports 0xcf8 to 0xcff: PCI configuration, and the reset control register that lies in the middle.

Sources: PCI Local Bus Specification 3.0, 3.2.2.3.2 (configuration mechanism #1); Intel 82371SB
(PIIX3), "RC: reset control register". The address is the 32-bit port 0xcf8 and nothing else is: its
second byte, a device and function number, would look like a reset. Accesses to 0xcf9 are the reset
control register's, whose low byte counts: so has QEMU's q35 it, and its pc for that byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedPciPorts

_RESET_KIND: Final = 1 << 1
_RESET_CPU: Final = 1 << 2

_ENABLE: Final = 1 << 31
_CONTROL: Final = 1
_ADDRESS_SIZE: Final = 4


class PciFunction(NamedTuple):
    """Number of a PCI function: bus 0..255, device 0..31, function 0..7."""

    bus: int
    device: int
    function: int


class ConfigurationSpace(Protocol):
    """Configuration registers of every function behind a host bridge.

    Registers are byte offsets, 0..0xfff; an access of 1, 2 or 4 bytes lies within an aligned double
    word. Called under the guard of the device that was accessed. Nothing is raised.
    """

    def read(self, function: PciFunction, register: int, size: int) -> int:
        """Value of the register; all ones where there is no such function."""
        ...

    def write(self, function: PciFunction, register: int, size: int, value: int) -> None:
        """Take `value`; where there is no such function it is dropped."""
        ...


class PciPorts:
    """The address's four ports, reset control at offset 1; `data` are the four ports behind them.

    `on_reset` is called for every write that resets; what that does is for the machine to say.
    Without a configuration space there is no address either, and no PCI: all reads as ones. With
    one, a guest that writes an address finds it again.
    """

    def __init__(
        self, on_reset: Callable[[], None], space: ConfigurationSpace | None = None
    ) -> None:
        self._on_reset = on_reset
        self._has_space = space is not None
        self._kind = 0
        self.data = PciData(space)

    def reset(self) -> None:
        """Select nothing."""
        self.data.address = self._kind = 0

    def save(self) -> SavedPciPorts:
        """The address and the kind of reset."""
        from pyvmm.devices.saved_values import SavedPciPorts

        return SavedPciPorts(self.data.address, self._kind)

    def restore(self, value: SavedPciPorts) -> None:
        """Take them over; nothing is reset by that."""
        self.data.address, self._kind = value.address, value.kind

    def read(self, offset: int, size: int) -> int:
        """Reset control, or the address or a part of it."""
        ones = (1 << 8 * size) - 1
        if offset == _CONTROL:
            return self._kind
        return self.data.address >> 8 * offset & ones if self._has_space else ones

    def write(self, offset: int, size: int, value: int) -> None:
        """Reset, or select an address; anything else is dropped."""
        if offset == _CONTROL:
            self._kind = value & _RESET_KIND
            if value & _RESET_CPU:
                self._on_reset()
        elif offset == 0 and size == _ADDRESS_SIZE:
            self.data.address = value


class PciData:
    """Four ports that reach the double word which `address` selects."""

    def __init__(self, space: ConfigurationSpace | None) -> None:
        self._space = space
        self.address = 0
        """Value of the configuration address register."""

    def read(self, offset: int, size: int) -> int:
        """A part of the double word; all ones where nothing is selected, or there is nothing."""
        ones = (1 << 8 * size) - 1
        if self._space is None or not self._reaches(offset, size):
            return ones
        return self._space.read(self._function, self._register(offset), size) & ones

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a part of the double word, if there is one."""
        if self._space is not None and self._reaches(offset, size):
            self._space.write(self._function, self._register(offset), size, value)

    def _reaches(self, offset: int, size: int) -> bool:
        return bool(self.address & _ENABLE) and offset + size <= _ADDRESS_SIZE

    @property
    def _function(self) -> PciFunction:
        address = self.address
        return PciFunction(address >> 16 & 0xFF, address >> 11 & 0x1F, address >> 8 & 7)

    def _register(self, offset: int) -> int:
        return self.address & 0xFC | offset
