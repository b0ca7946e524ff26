# SPDX-License-Identifier: MIT
"""Real-mode entry of a bzImage (boot.rst, 1.3 to 1.9), with the small BIOS that it calls.

iPXE and boot loaders come as bzImages that do all their work there. The BIOS is
``firmware/bios/bios.S``, which begins with a jump, and room for the memory map.
"""

from __future__ import annotations

import dataclasses
import struct

from pyvmm.boot.claims import BootData, Claim, Kernel, claim_of
from pyvmm.boot.free_memory import FreeMemory
from pyvmm.boot.linux_header import SECTOR, LinuxHeader, LoadFlag
from pyvmm.boot.linux_loading import code_claim
from pyvmm.boot.plan import BootProtocol, EntryState
from pyvmm.boot.tables import real_mode
from pyvmm.errors import ImageError
from pyvmm.hosts.registers import Regs
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import (
    BIOS_GPA,
    BIOS_SEGMENT,
    COMMAND_LINE,
    HIGH_MEMORY_START,
    MIB,
    REAL_MODE_SETUP,
    REAL_MODE_SETUP_SIZE,
    GpaRange,
)
from pyvmm.rules.abi import PAGE_SIZE

_HEAP_END = REAL_MODE_SETUP_SIZE - 0x200
"""``heap_end_ptr``: the end of the heap less 0x200; the stack is behind it (boot.rst, 1.3)."""
_STACK = REAL_MODE_SETUP_SIZE - 16
_LOADER = 0x210
_LOAD_FLAGS = 0x211
_UNDEFINED_LOADER = 0xFF
_NORMAL_VIDEO = 0xFFFF
_MAP = 0x10
"""Offset of the memory map in the BIOS: entries, then sizes, then the entries of 20 bytes."""
_SIZES = struct.Struct("<4H")
_ENTRY = struct.Struct("<QQI")
_MOST_ENTRIES = 32
_BELOW_16M = 15 * MIB


def real_mode_kernel(view: memoryview, header: LinuxHeader, attempt: str) -> Kernel:
    """The kernel of the bzImage in `view` (the whole file), entered at its setup code.

    The first claim is the protected-mode part, the second the setup code with its heap and stack.
    Raises `ImageError` for setup code that leaves no room for these.
    """
    if header.setup_size > _HEAP_END:
        raise ImageError(
            attempt,
            f"its setup code of {header.setup_size} bytes leaves no room for heap and stack in "
            f"{REAL_MODE_SETUP_SIZE}",
            "enter it in another way (--entry)",
        )
    setup = bytes(view[: header.setup_size])
    place = GpaRange(REAL_MODE_SETUP, REAL_MODE_SETUP + REAL_MODE_SETUP_SIZE)
    claims = (
        code_claim(view, header, attempt),
        Claim(place, setup, "its setup code"),
    )
    return Kernel(BootProtocol.LINUX_16, claims, REAL_MODE_SETUP + SECTOR, None, header=header)


def real_mode_boot_data(
    kernel: Kernel,
    address_map: AddressMap,
    command_line: bytes,
    initrd: GpaRange | None,
    *,
    bios: bytes,
    free: FreeMemory,
) -> BootData:
    """Command line, setup code that knows of it and of the initrd, BIOS that knows the memory.

    `command_line` is without its zero byte; `bios` is one page. The setup code here takes the place
    of that in `kernel`.
    """
    line = free.table(COMMAND_LINE, command_line + b"\0", "the command line")
    code, old = kernel.claims
    setup = bytearray(old.data)
    setup[_LOADER] = _UNDEFINED_LOADER
    setup[_LOAD_FLAGS] |= LoadFlag.CAN_USE_HEAP
    struct.pack_into("<H", setup, 0x1FA, _NORMAL_VIDEO)
    if any(setup[0x214:0x218]):
        struct.pack_into("<I", setup, 0x214, code.range.start)
    where = initrd or GpaRange(0, 0)
    struct.pack_into("<II", setup, 0x218, where.start, where.size)
    struct.pack_into("<H", setup, 0x224, _HEAP_END)
    struct.pack_into("<I", setup, 0x228, line.range.start)
    sregs = real_mode()
    offset = BIOS_GPA - (BIOS_SEGMENT << 4)
    code_segment = dataclasses.replace(sregs.cs, selector=BIOS_SEGMENT, base=BIOS_SEGMENT << 4)
    return BootData(
        (line,),
        EntryState(
            Regs(rbx=REAL_MODE_SETUP >> 4, rdx=_STACK, rip=offset),
            dataclasses.replace(sregs, cs=code_segment),
        ),
        in_place_of=(old._replace(data=bytes(setup)),),
        firmware=claim_of(BIOS_GPA, _with_memory_map(bios, address_map), "the BIOS"),
    )


def _with_memory_map(bios: bytes, address_map: AddressMap) -> bytes:
    assert len(bios) == PAGE_SIZE  # `pyvmm.bundled_guests.bios` has looked
    image = bytearray(bios)
    entries = address_map.e820()[:_MOST_ENTRIES]
    above = address_map.ram[0].range.end - HIGH_MEMORY_START
    below_16m = min(above, _BELOW_16M)
    sizes = (
        len(entries), below_16m >> 10, (above - below_16m) >> 16, min(above >> 10, 0xFFFF)
    )  # fmt: skip
    _SIZES.pack_into(image, _MAP, *sizes)
    for number, one in enumerate(entries):
        place = _MAP + _SIZES.size + number * _ENTRY.size
        _ENTRY.pack_into(image, place, one.range.start, one.range.size, one.type)
    return bytes(image)
