# SPDX-License-Identifier: MIT
"""The one PCI segment: a bus with 32 slots, and the two ways into its configuration spaces. Pure.

An access gets to a function under that function's own guard and no other. What is not there reads
as all ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from pyvmm.devices.pci.config_space import SIZE, ConfigSpace
from pyvmm.devices.pci_ports import PciFunction
from pyvmm.devices.protocols import Guard
from pyvmm.errors import UsageError

SLOTS: Final = 32
"""Devices that a bus has room for, the host bridge being one."""
BUS: Final = 0
FUNCTION_SIZE: Final = 1 << 12
"""Bytes of ECAM for each function."""


class GuardedFunction:
    """A function: its configuration space, and the guard of its device.

    None: there is no guard yet, and no guest either.
    """

    def __init__(self, name: str, space: ConfigSpace, guard: Guard | None = None) -> None:
        self.name = name
        self.space = space
        self.guard = guard
        self.slot = 0

    def entered(self) -> AbstractContextManager[object]:
        """Return what to be in while its configuration is looked at."""
        return nullcontext() if self.guard is None else self.guard

    def read(self, register: int, size: int) -> int:
        """Read its configuration under its guard."""
        if register >= SIZE:
            return 0
        with self.entered():
            return self.space.read(register, size)

    def write(self, register: int, size: int, value: int) -> None:
        """Write its configuration under its guard."""
        if register >= SIZE:
            return
        with self.entered():
            self.space.write(register, size, value)


class PciSegment:
    """Functions by slot; each device has one, function 0. `pci_ports.ConfigurationSpace`."""

    def __init__(self) -> None:
        self._functions: dict[int, GuardedFunction] = {}

    def add(self, function: GuardedFunction) -> int:
        """Give a function the next slot, whose number is returned.

        Raises `UsageError` when all are taken. While the machine is put together.
        """
        slot = len(self._functions)
        if slot == SLOTS:
            raise UsageError(
                f"give the device {function.name} a place on the PCI bus",
                f"it would be in slot {slot}; a bus has {SLOTS - 1} beside the host bridge's",
                "ask for fewer devices",
            )
        self._functions[slot] = function
        function.slot = slot
        return slot

    def __iter__(self) -> Iterator[tuple[int, GuardedFunction]]:
        """Slots with what is in them, ascending."""
        return iter(sorted(self._functions.items()))

    def function(self, number: PciFunction) -> GuardedFunction | None:
        """Return the function of that number."""
        if number.bus != BUS or number.function:
            return None
        return self._functions.get(number.device)

    def read(self, function: PciFunction, register: int, size: int) -> int:
        """`ConfigurationSpace.read`."""
        found = self.function(function)
        return (1 << 8 * size) - 1 if found is None else found.read(register, size)

    def write(self, function: PciFunction, register: int, size: int, value: int) -> None:
        """`ConfigurationSpace.write`."""
        found = self.function(function)
        if found is not None:
            found.write(register, size, value)


class Ecam:
    """Memory-mapped configuration (PCI Express Base Specification, 7.2.2): 4 KiB a function."""

    def __init__(self, segment: PciSegment) -> None:
        self._segment = segment

    def read(self, offset: int, size: int) -> int:
        """Read a register, or a part of one; bytes beyond its end are 0."""
        return self._segment.read(_number(offset), offset % FUNCTION_SIZE, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register, or a part of one."""
        self._segment.write(_number(offset), offset % FUNCTION_SIZE, size, value)


def _number(offset: int) -> PciFunction:
    return PciFunction(offset >> 20, offset >> 15 & 0x1F, offset >> 12 & 7)
