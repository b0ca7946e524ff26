# SPDX-License-Identifier: MIT
"""A machine as its ACPI tables describe it: processors, devices, PCI."""

from __future__ import annotations

from typing import NamedTuple

from pyvmm.acpi.resources import Resource
from pyvmm.memory.layout import GpaRange


class AcpiDevice(NamedTuple):
    """A device that the guest is told of: its hardware ID, and what it answers at.

    `hid` is a PNP ID such as PNP0501, or an ACPI ID such as LNRO0005; `uid` tells it from others
    of its kind. `cid` is an ID that it is compatible with.
    """

    hid: str
    resources: tuple[Resource, ...]
    uid: int = 0
    cid: str = ""


class PciRoot(NamedTuple):
    """The PCI host bridge: segment 0, buses from 0 on, as many as `ecam` has room for.

    `windows` are what it passes on; `interrupts` are slot and GSI of each device's INTA.
    """

    ecam: GpaRange
    windows: tuple[Resource, ...]
    interrupts: tuple[tuple[int, int], ...] = ()


class FixedHardware(NamedTuple):
    """Ports of the fixed hardware (ACPI 6.5, 4.8.3), and the GSI of its interrupt.

    `event` has 4 ports, `control` 2, `timer` 4. Writing `reset_value` to the port `reset` resets
    the machine; `off` is the SLP_TYP by which it is switched off.
    """

    event: int
    control: int
    timer: int
    sci: int
    reset: int
    reset_value: int
    off: int


class AcpiNode(NamedTuple):
    """A proximity domain: the processors with these IDs, and `memory`, ascending."""

    apic_ids: tuple[int, ...]
    memory: tuple[GpaRange, ...]


class AcpiMachine(NamedTuple):
    """All that the tables tell. `apic_ids` are the vCPUs', by index; `nodes` are none, or all."""

    apic_ids: tuple[int, ...]
    fixed: FixedHardware
    devices: tuple[AcpiDevice, ...] = ()
    pci: PciRoot | None = None
    nodes: tuple[AcpiNode, ...] = ()
