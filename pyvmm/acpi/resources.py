# SPDX-License-Identifier: MIT
"""Resources of devices, and their descriptors (ACPI 6.5, 6.4)."""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from pyvmm.acpi.aml import Aml, buffer
from pyvmm.errors import InternalError

_WORD, _DWORD, _QWORD = 1 << 16, 1 << 32, 1 << 64
_ISA_LINES = 16

_CONSUMER = 1 << 0
_LEVEL_BIT, _LOW_BIT, _SHARED_BIT = 1 << 1, 1 << 2, 1 << 3
_FIXED_ENDS = 0x0C
"""General flags of an address space: both ends fixed, and the device produces it."""
_MEMORY, _IO, _BUS = 0, 1, 2
_WRITABLE = 1 << 0
_PREFETCHABLE = 3 << 1
_WHOLE_RANGE = 3
_END = b"\x79\x00"
"""End tag, with a checksum of 0: none was made."""


class IoPorts(NamedTuple):
    """I/O ports [start, start + length) that a device answers at; up to 255 of them."""

    start: int
    length: int


class Interrupt(NamedTuple):
    """An interrupt input of the I/O APIC, and how a device drives it."""

    gsi: int
    level: bool
    active_low: bool
    shared: bool


class FixedMemory(NamedTuple):
    """`size` bytes of guest-physical address space at `gpa` that a device answers at."""

    gpa: int
    size: int


class BusWindow(NamedTuple):
    """PCI buses `first` to `last` behind a bridge."""

    first: int
    last: int


class IoWindow(NamedTuple):
    """I/O ports [start, end) that a bridge passes on."""

    start: int
    end: int


class MemoryWindow(NamedTuple):
    """Guest-physical addresses [start, end) that a bridge passes on."""

    start: int
    end: int
    prefetchable: bool


Resource: TypeAlias = IoPorts | Interrupt | FixedMemory | BusWindow | IoWindow | MemoryWindow


def resources(*found: Resource) -> Aml:
    """A buffer with a descriptor of each, for a ``_CRS``."""
    return buffer(b"".join(_descriptor(one) for one in found) + _END)


def _descriptor(one: Resource) -> bytes:
    match one:
        case IoPorts(start, length):
            if not (0 < length <= 0xFF and start + length <= _WORD):
                raise InternalError(f"describe {length} I/O ports at {start:#x}", "255 at most")
            # I/O port descriptor (6.4.2.5): 16 bits are decoded, and it cannot be moved.
            return struct.pack("<BBHHBB", 0x47, 1, start, start, 1, length)
        case Interrupt():
            return _interrupt(one)
        case FixedMemory(gpa, size):
            if gpa + size <= _DWORD:
                # 32-bit fixed memory (6.4.3.4).
                return struct.pack("<BHBII", 0x86, 9, _WRITABLE, gpa, size)
            return _address_space(_MEMORY, gpa, gpa + size, _WRITABLE, _FIXED_ENDS | _CONSUMER)
        case BusWindow(first, last):
            return _address_space(_BUS, first, last + 1, 0)
        case IoWindow(start, end):
            return _address_space(_IO, start, end, _WHOLE_RANGE)
        case MemoryWindow(start, end, prefetchable):
            kind = _WRITABLE | (_PREFETCHABLE if prefetchable else 0)
            return _address_space(_MEMORY, start, end, kind)


def _interrupt(one: Interrupt) -> bytes:
    if one.gsi < _ISA_LINES and not (one.level or one.active_low or one.shared):
        # IRQ descriptor without flags (6.4.2.1): edge, active high, not shared, as ISA has it.
        return struct.pack("<BH", 0x22, 1 << one.gsi)
    flags = _CONSUMER | (0 if one.level else _LEVEL_BIT)
    flags |= (_LOW_BIT if one.active_low else 0) | (_SHARED_BIT if one.shared else 0)
    # Extended interrupt descriptor (6.4.3.6), of one interrupt.
    return struct.pack("<BHBBI", 0x89, 6, flags, 1, one.gsi)


def _address_space(
    kind: int, start: int, end: int, specific: int, flags: int = _FIXED_ENDS
) -> bytes:
    """An address space descriptor (6.4.3.5), of the width that its end needs."""
    if start >= end:
        raise InternalError(f"describe [{start:#x}, {end:#x})", "it is empty")
    values = (0, start, end - 1, 0, end - start)
    for tag, letter, limit in ((0x88, "H", _WORD), (0x87, "I", _DWORD), (0x8A, "Q", _QWORD)):
        is_wide_enough = end <= limit and (end - start < limit)
        if is_wide_enough and not (kind == _MEMORY and letter == "H"):
            body = struct.pack(f"<BBB5{letter}", kind, flags, specific, *values)
            return struct.pack("<BH", tag, len(body)) + body
    raise InternalError(f"describe [{start:#x}, {end:#x})", "it has no 64 bits")
