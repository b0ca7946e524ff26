# SPDX-License-Identifier: MIT
"""Tables of NUMA nodes without their headers: SRAT (ACPI 6.5, 5.2.16), SLIT (5.2.17)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvmm.acpi.machine import AcpiMachine

_LOCAL_APIC, _MEMORY, _LOCAL_X2APIC = 0, 1, 2
_ENABLED = 1 << 0
_MOST_APIC_ID = 0xFE
"""The largest ID that has 8 bits and is not everybody's."""
_HERE, _ELSEWHERE = 10, 20
"""Distances: 10 is a node's to itself, and Linux takes 20 for any other without a SLIT."""


def srat(machine: AcpiMachine) -> bytes:
    """Affinities of processors and memory to proximity domains, which are the nodes' numbers."""
    rows = []
    for domain, node in enumerate(machine.nodes):
        for apic_id in node.apic_ids:
            if apic_id <= _MOST_APIC_ID:
                low, high = domain & 0xFF, (domain >> 8).to_bytes(3, "little")
                row = struct.pack("<BBBBIB3sI", _LOCAL_APIC, 16, low, apic_id, _ENABLED, 0, high, 0)
            else:
                row = struct.pack("<BBHIIII4x", _LOCAL_X2APIC, 24, 0, domain, apic_id, _ENABLED, 0)
            rows.append(row)
        rows.extend(
            struct.pack("<BBI2xQQ4xI8x", _MEMORY, 40, domain, one.start, one.size, _ENABLED)
            for one in node.memory
        )
    return struct.pack("<I8x", 1) + b"".join(rows)


def slit(machine: AcpiMachine) -> bytes:
    """Distances between nodes, row by row: every other one is as far."""
    count = len(machine.nodes)
    distances = bytes(
        _HERE if one == other else _ELSEWHERE for one in range(count) for other in range(count)
    )
    return count.to_bytes(8, "little") + distances
