# SPDX-License-Identifier: MIT
"""ACPI of a machine: its fixed hardware, and the tables that tell of its devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from pyvmm.acpi.machine import AcpiDevice, AcpiMachine, AcpiNode, FixedHardware, PciRoot
from pyvmm.acpi.resources import FixedMemory, Interrupt, IoPorts, Resource
from pyvmm.acpi.tables import acpi_tables
from pyvmm.devices import ports
from pyvmm.devices.placement import PlacedDevice, Platform, Space, Window
from pyvmm.devices.power import SOFT_OFF, PowerManagement
from pyvmm.devices.protocols import Guard
from pyvmm.machine.ending import Ending, EndingKind
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.address_map import AddressMap, RangeKind

if TYPE_CHECKING:
    from pyvmm.machine.hardware import NumaNode

_RESET_SYSTEM = 6
"""Reset control: RST_CPU and SYS_RST."""
_FIXED = FixedHardware(
    event=ports.PM_EVENTS,
    control=ports.PM_CONTROL,
    timer=ports.PM_TIMER,
    sci=ports.SCI,
    reset=ports.RESET_CONTROL,
    reset_value=_RESET_SYSTEM,
    off=SOFT_OFF,
)


class PowerButton:
    """The power button of a machine with ACPI, for whoever presses it from outside."""

    def __init__(self) -> None:
        self._power: PowerManagement | None = None
        self._guard: Guard | None = None

    def place(self, wiring: Wiring) -> PlacedDevice:
        """Place ACPI's fixed hardware, for `DeviceChoice.added`."""
        name = "ACPI power management"
        power = self._power = PowerManagement(
            wiring.line(ports.SCI, name),
            lambda: wiring.end(Ending(EndingKind.EXITED, "the guest powered itself off", 0)),
        )
        where = Space.PORT
        windows = (
            Window(
                where, ports.PM_EVENTS, ports.PM_EVENTS_LENGTH, power.events, ports.PM_WIDTH,
                "PM1a events",
            ),
            Window(
                where, ports.PM_CONTROL, ports.PM_CONTROL_LENGTH, power.control, 2, "PM1a control"
            ),
        )  # fmt: skip
        return PlacedDevice(
            name, power, windows, gsis=(ports.SCI,), shares_gsis=True, backend=self._attach
        )

    def _attach(self, guard: Guard) -> PowerButton:
        self._guard = guard
        return self

    async def serve(self) -> None:
        """Do nothing: it is pressed from outside."""
        await trio.sleep_forever()

    def press(self) -> None:
        """Press it; the guest is told by an interrupt, if it wants to be. Any thread."""
        if self._power is not None and self._guard is not None:
            with self._guard:
                self._power.press()


def tables_of(
    platform: Platform,
    address_map: AddressMap,
    apic_ids: tuple[int, ...],
    pci: PciRoot | None = None,
    nodes: tuple[NumaNode, ...] = (),
) -> bytes:
    """Make the tables for the place that `address_map` has for them.

    Raises `UsageError` where they have no room there.
    """
    (place,) = address_map.of_kind(RangeKind.ACPI)
    told: tuple[AcpiNode, ...] = ()
    if nodes:
        from pyvmm.machine.numa import told_nodes  # Most machines have none.

        told = told_nodes(nodes, address_map, apic_ids)
    machine = AcpiMachine(apic_ids, _FIXED, described(platform), pci, told)
    return acpi_tables(machine, place.range)


def described(platform: Platform) -> tuple[AcpiDevice, ...]:
    """The devices that tables tell of, numbered by kind."""
    found: list[AcpiDevice] = []
    count: dict[str, int] = {}
    for placed in platform.devices:
        if placed.hid:
            uid = count.get(placed.hid, 0)
            count[placed.hid] = uid + 1
            found.append(AcpiDevice(placed.hid, tuple(_resources(placed)), uid))
    return tuple(found)


def _resources(placed: PlacedDevice) -> list[Resource]:
    is_isa = all(window.space is Space.PORT for window in placed.windows)
    found = [_range(window) for window in placed.windows]
    found.extend(
        Interrupt(gsi, level=not is_isa, active_low=False, shared=placed.shares_gsis)
        for gsi in placed.gsis
    )
    return found


def _range(window: Window) -> Resource:
    if window.space is Space.PORT:
        return IoPorts(window.start, window.length)
    return FixedMemory(window.start, window.length)
