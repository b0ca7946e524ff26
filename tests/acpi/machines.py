# SPDX-License-Identifier: MIT
"""Machines to be described in tests of ACPI tables."""

from __future__ import annotations

from pyvmm.acpi.dsdt import BYTES_PER_BUS
from pyvmm.acpi.machine import AcpiDevice, AcpiMachine, AcpiNode, FixedHardware, PciRoot
from pyvmm.acpi.resources import FixedMemory, Interrupt, IoPorts, IoWindow, MemoryWindow
from pyvmm.memory.layout import (
    ACPI_GPA,
    ECAM_GPA,
    GIB,
    HIGH_MEMORY_START,
    PCI_LOW_GPA,
    VIRTIO_GPA,
    VIRTIO_STRIDE,
    GpaRange,
)

PLACE = GpaRange(ACPI_GPA, HIGH_MEMORY_START)
FIXED = FixedHardware(
    event=0x600, control=0x604, timer=0x608, sci=9, reset=0xCF9, reset_value=6, off=5
)
SERIAL = AcpiDevice("PNP0501", (IoPorts(0x3F8, 8), Interrupt(4, False, False, False)))
VIRTIO = tuple(
    AcpiDevice(
        "LNRO0005",
        (
            FixedMemory(VIRTIO_GPA + number * VIRTIO_STRIDE, VIRTIO_STRIDE),
            Interrupt(16 + number, True, False, False),
        ),
        number,
    )
    for number in range(3)
)
PCI = PciRoot(
    GpaRange(ECAM_GPA, ECAM_GPA + BYTES_PER_BUS),
    (
        IoWindow(0x1000, 0x10000),
        MemoryWindow(PCI_LOW_GPA, ECAM_GPA, False),
        MemoryWindow(256 * GIB, 512 * GIB, True),
    ),
    tuple((slot, 10 + slot % 2) for slot in range(32)),
)
SMALL = AcpiMachine((0,), FIXED)
LARGE = AcpiMachine(tuple(range(255)), FIXED, (SERIAL, *VIRTIO), PCI)
GAPS = AcpiMachine((0, 1, 2, 4, 5, 6, 300), FIXED, (SERIAL,))
"""With an ID that has no 8 bits, which only the other kind of entry has room for."""
NODES = AcpiMachine(
    (0, 1, 2, 300),
    FIXED,
    nodes=(
        AcpiNode((0, 2), (GpaRange(0, 3 * GIB), GpaRange(4 * GIB, 5 * GIB))),
        AcpiNode((1, 300), (GpaRange(5 * GIB, 6 * GIB),)),
        AcpiNode((), (GpaRange(6 * GIB, 7 * GIB),)),
    ),
)
MACHINES = {"small": SMALL, "large": LARGE, "gaps": GAPS, "nodes": NODES}
