# SPDX-License-Identifier: MIT
"""Tables of NUMA nodes: every processor and every range of memory in its node; distances."""

from __future__ import annotations

import struct

from pyvmm.acpi.machine import AcpiMachine, AcpiNode
from pyvmm.acpi.tables import acpi_tables
from pyvmm.memory.layout import MIB, GpaRange

from .machines import FIXED, NODES, PLACE
from .parsing import HEADER, tables


def rows(machine: AcpiMachine) -> list[bytes]:
    srat = tables(acpi_tables(machine, PLACE), PLACE.start)[b"SRAT"]
    assert srat[8] == 3
    # Reserved, and 1 for those who read revision 1.
    assert srat[HEADER : HEADER + 12] == struct.pack("<I8x", 1)
    found, at = [], HEADER + 12
    while at < len(srat):
        found.append(srat[at : at + srat[at + 1]])
        at += srat[at + 1]
    assert at == len(srat)
    return found


def domain_of(row: bytes) -> int:
    match row[0]:
        case 0:
            return int.from_bytes(row[2:3] + row[9:12], "little")
        case 1:
            return int.from_bytes(row[2:6], "little")
        case _:
            assert row[0] == 2
            return int.from_bytes(row[4:8], "little")


def test_processors_and_memory_are_in_their_nodes_and_enabled() -> None:
    processors: list[tuple[int, int]] = []
    memory: list[tuple[int, GpaRange]] = []
    for row in rows(NODES):
        if row[0] == 1:
            assert len(row) == 40
            start, size = struct.unpack_from("<QQ", row, 8)
            memory.append((domain_of(row), GpaRange(start, start + size)))
            flags = row[28:32]
        elif row[0] == 0:
            assert len(row) == 16
            processors.append((domain_of(row), row[3]))
            flags = row[4:8]
        else:
            assert len(row) == 24
            processors.append((domain_of(row), int.from_bytes(row[8:12], "little")))
            flags = row[12:16]
        assert flags == (1).to_bytes(4, "little")
    wanted = [(number, id_) for number, node in enumerate(NODES.nodes) for id_ in node.apic_ids]
    assert processors == wanted
    assert memory == [
        (number, one) for number, node in enumerate(NODES.nodes) for one in node.memory
    ]
    # 300 has no 8 bits.
    assert [row[0] for row in rows(NODES) if row[0] != 1] == [0, 0, 0, 2]


def test_a_node_beyond_a_byte_is_told_whole() -> None:
    one = AcpiNode((5,), (GpaRange(0, MIB),))
    empty = AcpiNode((), ())
    machine = AcpiMachine((5,), FIXED, nodes=(*(empty for _ in range(0x102)), one))
    assert [domain_of(row) for row in rows(machine)] == [0x102, 0x102]


def test_a_node_is_nearest_to_itself() -> None:
    slit = tables(acpi_tables(NODES, PLACE), PLACE.start)[b"SLIT"]
    assert slit[HEADER:] == (3).to_bytes(8, "little") + bytes((10, 20, 20, 20, 10, 20, 20, 20, 10))
