# SPDX-License-Identifier: MIT
"""The definition block of a machine: its devices as AML, and how it is switched off."""

from __future__ import annotations

from pyvmm.acpi.aml import Aml, device, eisa, integer, name, package, scope, string
from pyvmm.acpi.machine import AcpiDevice, AcpiMachine, PciRoot
from pyvmm.acpi.resources import BusWindow, FixedMemory, IoPorts, Resource, resources

BYTES_PER_BUS = 1 << 20
"""ECAM of one PCI bus (PCI Express Base Specification, 7.2.2)."""
_EISA_LENGTH = 7
_EVERY_FUNCTION = 0xFFFF
_INTA = 0
_MOTHERBOARD = "PNP0C02"
"""Resources of no device in particular, which others are to keep away from."""


def definition_block(machine: AcpiMachine) -> Aml:
    """The terms of the DSDT: ``_S5`` and the devices in ``_SB``."""
    off = integer(machine.fixed.off)
    devices = [_device(f"D{number:03X}", one) for number, one in enumerate(machine.devices)]
    if machine.pci is not None:
        devices.append(_pci_root(machine.pci))
    devices.append(_device("MBRD", AcpiDevice(_MOTHERBOARD, _of_the_board(machine))))
    nothing = integer(0)
    return Aml(
        # SLP_TYP for PM1a and PM1b (7.4.2.5); the other two are reserved.
        name("_S5", package(off, off, nothing, nothing)) + scope("_SB", *devices)
    )


def _identifier(text: str) -> Aml:
    """An ID: PNP IDs are compressed to integers, ACPI IDs are strings (6.1.5)."""
    return eisa(text) if len(text) == _EISA_LENGTH else string(text)


def _device(path: str, one: AcpiDevice) -> Aml:
    terms = [name("_HID", _identifier(one.hid))]
    if one.cid:
        terms.append(name("_CID", _identifier(one.cid)))
    terms.append(name("_UID", integer(one.uid)))
    terms.append(name("_CRS", resources(*one.resources)))
    return device(path, *terms)


def _pci_root(root: PciRoot) -> Aml:
    buses = root.ecam.size // BYTES_PER_BUS
    routes = (
        package(integer(slot << 16 | _EVERY_FUNCTION), integer(_INTA), integer(0), integer(gsi))
        for slot, gsi in root.interrupts
    )
    return device(
        "PCI0",
        name("_HID", eisa("PNP0A08")),
        name("_CID", eisa("PNP0A03")),
        name("_SEG", integer(0)),
        name("_BBN", integer(0)),
        name("_UID", integer(0)),
        name("_CRS", resources(BusWindow(0, buses - 1), *root.windows)),
        # Without link devices: a GSI for each slot (6.2.13).
        name("_PRT", package(*routes)),
    )


def _of_the_board(machine: AcpiMachine) -> tuple[Resource, ...]:
    fixed = machine.fixed
    found: list[Resource] = [
        IoPorts(fixed.event, 4),
        IoPorts(fixed.control, 2),
        IoPorts(fixed.timer, 4),
    ]
    if machine.pci is not None:
        # Linux wants it reserved by the firmware (arch/x86/pci/mmconfig-shared.c).
        found.append(FixedMemory(machine.pci.ecam.start, machine.pci.ecam.size))
    return tuple(found)
