# SPDX-License-Identifier: MIT
"""Zero page: the ``struct boot_params`` that a Linux kernel is given (Linux
``Documentation/arch/x86/zero-page.rst``)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyvmm.boot.linux_header import SETUP_HEADER, LinuxHeader
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import HIGH_MEMORY_START, GpaRange
from pyvmm.rules.abi import PAGE_SIZE

E820_MAX = 128
"""Entries that the page has room for."""

_RSDP = 0x070
_EXTENDED = {0x218: 0x0C0, 0x21C: 0x0C4, 0x228: 0x0C8}
"""Fields of the header, and where the upper halves of their values are."""
_ALT_MEM_K = 0x1E0
_E820_COUNT = 0x1E8
_E820_TABLE = 0x2D0
_VIDEO_MODE = 0x1FA
_TYPE_OF_LOADER = 0x210
_CODE32_START = 0x214
_RAMDISK_IMAGE = 0x218
_RAMDISK_SIZE = 0x21C
_COMMAND_LINE = 0x228
_NORMAL_VIDEO = 0xFFFF
_UNDEFINED_LOADER = 0xFF
_E820_ENTRY = struct.Struct("<QQI")
_U32_MAX = 0xFFFF_FFFF


class KernelInput(NamedTuple):
    """Places (GPAs) of what a kernel is given; `rsdp` 0: no ACPI tables."""

    load_address: int
    command_line: int
    initrd: GpaRange | None
    rsdp: int


def zero_page(header: LinuxHeader, given: KernelInput, address_map: AddressMap) -> bytes:
    """The page: the setup header as the image has it, filled in, and what else is to be told.

    A byte that is not 0 elsewhere would make Linux think that the whole page was not initialised
    (its ``sanitize_boot_params``).
    """
    page = bytearray(PAGE_SIZE)
    page[SETUP_HEADER : SETUP_HEADER + len(header.header)] = header.header
    struct.pack_into("<H", page, _VIDEO_MODE, _NORMAL_VIDEO)
    page[_TYPE_OF_LOADER] = _UNDEFINED_LOADER
    struct.pack_into("<I", page, _CODE32_START, given.load_address)
    _put(page, _COMMAND_LINE, given.command_line)
    initrd = GpaRange(0, 0) if given.initrd is None else given.initrd
    _put(page, _RAMDISK_IMAGE, initrd.start)
    _put(page, _RAMDISK_SIZE, initrd.size)
    struct.pack_into("<Q", page, _RSDP, given.rsdp)
    memory = (address_map.ram[0].range.end - HIGH_MEMORY_START) >> 10
    struct.pack_into("<I", page, _ALT_MEM_K, memory)
    entries = address_map.e820()
    page[_E820_COUNT] = len(entries)
    for number, one in enumerate(entries):
        _E820_ENTRY.pack_into(
            page,
            _E820_TABLE + number * _E820_ENTRY.size,
            one.range.start,
            one.range.size,
            one.type,
        )
    return bytes(page)


def _put(page: bytearray, field: int, value: int) -> None:
    struct.pack_into("<I", page, field, value & _U32_MAX)
    struct.pack_into("<I", page, _EXTENDED[field], value >> 32)
