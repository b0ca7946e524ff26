# SPDX-License-Identifier: MIT
"""The PCI bus of a machine: slots, and places for BARs and interrupts as firmware gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyvmm.acpi.machine import PciRoot
from pyvmm.acpi.resources import IoWindow, MemoryWindow, Resource
from pyvmm.devices import ports
from pyvmm.devices.pci.bars import BarKind
from pyvmm.devices.pci.config_space import ConfigSpace
from pyvmm.devices.pci.host_bridge import host_bridge
from pyvmm.devices.pci.segment import Ecam, GuardedFunction, PciSegment
from pyvmm.devices.pci_ports import PciPorts
from pyvmm.devices.placement import PlacedDevice, Space, Window
from pyvmm.errors import InternalError
from pyvmm.machine.board import Board
from pyvmm.machine.pci.windows import BarWindows
from pyvmm.memory.address_map import AddressMap, RangeKind

_HOST_BRIDGE = "PCI host bridge"


def interrupt_of(slot: int) -> int:
    """The GSI that INTA of a slot is wired to: they take turns."""
    return ports.PCI_IRQS[slot % len(ports.PCI_IRQS)]


class PciBus:
    """Bus 0 while a machine is put together, and what its configuration is reached by.

    `address_map` has the window for memory BARs, and ECAM where the guest can reach it.
    """

    def __init__(self, address_map: AddressMap) -> None:
        self.segment = PciSegment()
        self.windows = BarWindows()
        self._map = address_map
        low = min(address_map.of_kind(RangeKind.PCI_WINDOW), key=lambda one: one.range.start)
        self._next = {Space.PORT: ports.PCI_IO, Space.MMIO: low.range.start}
        self._bridge = self.add(_HOST_BRIDGE, host_bridge())

    def add(self, name: str, space: ConfigSpace) -> GuardedFunction:
        """Give a function the next slot, and its BARs and its line their places.

        Raises `UsageError` when all slots are taken.
        """
        function = GuardedFunction(name, space)
        slot = self.segment.add(function)
        for bar in space.bars:
            if bar.kind is BarKind.MEMORY_64:
                raise InternalError(f"place a BAR of {name}", "there is no window for 64-bit ones")
            where = bar.kind.space
            address = -(-self._next[where] // bar.size) * bar.size
            self._next[where] = address + bar.size
            space.place(bar.number, address, interrupt_line=interrupt_of(slot))
        return function

    def placed(self, on_reset: Callable[[], None]) -> Iterator[PlacedDevice]:
        """The host bridge, and the ports and the memory by which configuration is reached.

        `on_reset` is for the reset control register, which lies among the ports.
        """
        device = PciPorts(on_reset, self.segment)
        length, width = ports.PCI_LENGTH, ports.PCI_WIDTH
        windows = [
            Window(Space.PORT, ports.PCI_ADDRESS, length, device, width, "pci-conf-idx"),
            # Each access is under the guard of the function that it reaches, and no other.
            Window(
                Space.PORT, ports.PCI_DATA, length, device.data, width, "pci-conf-data",
                serialised=False,
            ),
        ]  # fmt: skip
        windows += (
            Window(
                Space.MMIO, one.range.start, one.range.size, Ecam(self.segment), width,
                "pcie-mmcfg-mmio", serialised=False,
            )
            for one in self._map.of_kind(RangeKind.ECAM)
        )  # fmt: skip
        yield PlacedDevice("PCI ports", device, tuple(windows))
        yield PlacedDevice(_HOST_BRIDGE, self._bridge.space, ())

    def root(self) -> PciRoot:
        """The host bridge as ACPI tells of it: what it passes on, and the GSI of each slot.

        Raises `InternalError` without ECAM: there are no tables where a guest cannot reach it.
        """
        ecam = self._map.of_kind(RangeKind.ECAM)
        if not ecam:
            raise InternalError("describe the PCI bus", "the guest reaches it by ports only")
        windows: list[Resource] = [IoWindow(ports.PCI_IO, ports.PORT_SPACE_SIZE)]
        windows += (
            MemoryWindow(one.range.start, one.range.end, prefetchable=False)
            for one in self._map.of_kind(RangeKind.PCI_WINDOW)
        )
        lines = tuple((slot, interrupt_of(slot)) for slot, _ in self.segment if slot)
        return PciRoot(ecam[0].range, tuple(windows), lines)

    def attach(self, board: Board) -> None:
        """Let BARs be decoded on the buses of `board`, but over nothing else."""
        taken = [
            (space, one.start, one.end)
            for space in Space
            for one in board.windows(space)
            if one.registers is None
        ]
        taken += [(Space.MMIO, *one.range) for one in self._map.slots]
        taken += [(Space.MMIO, *one.range) for one in self._map.of_kind(RangeKind.CONTROLLER)]
        self.windows.attach({Space.PORT: board.ports, Space.MMIO: board.mmio}, taken)
