# SPDX-License-Identifier: MIT
"""ACPI tables of a machine, one after another from the RSDP on (ACPI 6.5, chapter 5)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyvmm.acpi.dsdt import BYTES_PER_BUS, definition_block
from pyvmm.acpi.machine import AcpiMachine
from pyvmm.acpi.node_tables import slit, srat
from pyvmm.errors import UsageError
from pyvmm.memory.layout import IOAPIC_GPA, LOCAL_APIC_GPA, GpaRange

if TYPE_CHECKING:
    from collections.abc import Sequence

_OEM, _OEM_TABLE, _CREATOR = b"PYVMM ", b"PYVMMPC ", b"PVMM"
_ALIGNMENT = 64
"""Of the FACS (5.2.10); the RSDP is on 16 bytes."""
_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_RSDP = struct.Struct("<8sB6sBIIQB3x")
_FIRST_RSDP_SIZE = 20
"""Bytes under the checksum of ACPI 1.0."""

# MADT (5.2.12).
_PCAT_COMPATIBLE = 1 << 0
_LOCAL_APIC, _IO_APIC, _OVERRIDE, _LOCAL_NMI, _LOCAL_X2APIC, _X2APIC_NMI = 0, 1, 2, 4, 9, 10
_ENABLED = 1 << 0
_TIMER_PIN, _LEVEL_HIGH = 2, 0x0D
_MOST_APIC_ID = 0xFE
"""The largest ID that has 8 bits and is not everybody's."""
_EVERY_PROCESSOR, _EVERY_UID = 0xFF, 0xFFFF_FFFF
_NMI_INPUT = 1

# FADT (5.2.9).
_FADT_SIZE = 276
_LEGACY_DEVICES, _NO_VGA, _NO_ASPM = 1 << 0, 1 << 2, 1 << 4
_WBINVD, _C1, _NO_SLEEP_BUTTON = 1 << 0, 1 << 2, 1 << 5
_NO_FIXED_RTC, _RESET_REGISTER = 1 << 6, 1 << 10
_NO_C2, _NO_C3 = 0xFFFF, 0xFFFF
_CENTURY = 0x32
"""Index of the century in the clock's CMOS memory."""
_PORT_SPACE, _BY_BYTE, _BY_WORD, _BY_DWORD = 1, 1, 2, 3


def acpi_tables(machine: AcpiMachine, place: GpaRange) -> bytes:
    """The machine's tables, for `place.start`, where the RSDP is.

    Raises `UsageError` where they do not fit `place`.
    """
    at = place.start + _aligned(_RSDP.size)
    out = bytearray(at - place.start)

    def put(content: bytes) -> int:
        nonlocal out
        gpa = place.start + len(out)
        out += content.ljust(_aligned(len(content)), b"\0")
        return gpa

    facs = put(_facs())
    dsdt = put(table(b"DSDT", 2, definition_block(machine)))
    found = [put(_fadt(machine, facs, dsdt)), put(_madt(machine))]
    if machine.pci is not None:
        found.append(put(_mcfg(machine.pci.ecam)))
    if machine.nodes:
        found += (put(table(b"SRAT", 3, srat(machine))), put(table(b"SLIT", 1, slit(machine))))
    xsdt = put(table(b"XSDT", 1, b"".join(gpa.to_bytes(8, "little") for gpa in found)))
    out[: _RSDP.size] = _rsdp(xsdt)
    if len(out) > place.size:
        raise UsageError(
            "describe the machine by ACPI tables",
            f"they have {len(out)} bytes, and there is room for {place.size}",
            "give it fewer vCPUs or devices",
        )
    return bytes(out)


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A table with its header (5.2.6), whose checksum makes all bytes add up to 0."""
    size = _HEADER.size + len(body)
    head = _HEADER.pack(signature, size, revision, 0, _OEM, _OEM_TABLE, 1, _CREATOR, 1)
    return _summed(head + body, 9)


def _summed(content: bytes, where: int, size: int | None = None) -> bytes:
    """`content` with the checksum of its first `size` bytes at `where`, which is 0 before."""
    checksum = -sum(content[:size]) & 0xFF
    return content[:where] + bytes([checksum]) + content[where + 1 :]


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _rsdp(xsdt: int) -> bytes:
    """Root pointer of revision 2, without an RSDT (5.2.5.3)."""
    plain = _RSDP.pack(b"RSD PTR ", 0, _OEM, 2, 0, _RSDP.size, xsdt, 0)
    return _summed(_summed(plain, 8, _FIRST_RSDP_SIZE), 32)


def _facs() -> bytes:
    """The firmware control structure (5.2.10): nobody wakes up, and nobody else takes the lock."""
    return struct.pack("<4sIIIIIQB31x", b"FACS", 64, 0, 0, 0, 0, 0, 2)


def _madt(machine: AcpiMachine) -> bytes:
    rows = [
        struct.pack("<BBBBII", _IO_APIC, 12, 0, 0, IOAPIC_GPA, 0),
        # The SCI as ACPI wants it: level, here active high, as KVM drives its lines.
        # The timer, as on every PC with an I/O APIC: ISA's IRQ 0 is pin 2.
        struct.pack("<BBBBIH", _OVERRIDE, 10, 0, 0, _TIMER_PIN, 0),
        struct.pack("<BBBBIH", _OVERRIDE, 10, 0, machine.fixed.sci, machine.fixed.sci, _LEVEL_HIGH),
        struct.pack("<BBBHB", _LOCAL_NMI, 6, _EVERY_PROCESSOR, 0, _NMI_INPUT),
    ]
    for uid, apic_id in enumerate(machine.apic_ids):
        if apic_id <= _MOST_APIC_ID and uid <= _MOST_APIC_ID:
            rows.append(struct.pack("<BBBBI", _LOCAL_APIC, 8, uid, apic_id, _ENABLED))
        else:
            rows.append(struct.pack("<BBHIII", _LOCAL_X2APIC, 16, 0, apic_id, _ENABLED, uid))
    if _has_x2apic_entries(machine.apic_ids):
        nmi = struct.pack("<BBHIB3x", _X2APIC_NMI, 12, 0, _EVERY_UID, _NMI_INPUT)
        rows.append(nmi)
    head = struct.pack("<II", LOCAL_APIC_GPA, _PCAT_COMPATIBLE)
    return table(b"APIC", 4, head + b"".join(rows))


def _has_x2apic_entries(apic_ids: Sequence[int]) -> bool:
    return len(apic_ids) > _MOST_APIC_ID + 1 or max(apic_ids) > _MOST_APIC_ID


def _mcfg(ecam: GpaRange) -> bytes:
    """PCI Firmware Specification 3.3, 4.1.2: segment 0."""
    buses = ecam.size // BYTES_PER_BUS
    return table(b"MCFG", 1, struct.pack("<8xQHBB4x", ecam.start, 0, 0, buses - 1))


def _fadt(machine: AcpiMachine, facs: int, dsdt: int) -> bytes:
    """Fixed hardware, and no SMI_CMD: it is in ACPI mode from the start (4.8.2.5)."""
    fixed = machine.fixed
    nowhere = bytes(12)
    body = b"".join(
        (
            struct.pack("<IIBBH", facs, dsdt, 0, 0, fixed.sci),
            struct.pack("<IBBBB", 0, 0, 0, 0, 0),
            struct.pack("<8I", fixed.event, 0, fixed.control, 0, 0, fixed.timer, 0, 0),
            struct.pack("<8B", 4, 2, 0, 4, 0, 0, 0, 0),
            struct.pack("<4H", _NO_C2, _NO_C3, 0, 0),
            struct.pack("<5B", 0, 0, 0, 0, _CENTURY),
            struct.pack("<HB", _LEGACY_DEVICES | _NO_VGA | _NO_ASPM, 0),
            struct.pack("<I", _WBINVD | _C1 | _NO_SLEEP_BUTTON | _NO_FIXED_RTC | _RESET_REGISTER),
            _port(fixed.reset, 8, _BY_BYTE),
            struct.pack("<BHB", fixed.reset_value, 0, 5),
            struct.pack("<QQ", 0, dsdt),
            _port(fixed.event, 32, _BY_WORD),
            nowhere,
            _port(fixed.control, 16, _BY_WORD),
            nowhere,
            nowhere,
            _port(fixed.timer, 32, _BY_DWORD),
            nowhere * 4,
            bytes(8),
        )
    )
    return table(b"FACP", 6, body)


def _port(port: int, bits: int, access: int) -> bytes:
    """A generic address structure (5.2.3.2) of an I/O port."""
    return struct.pack("<BBBBQ", _PORT_SPACE, bits, 0, access, port)
