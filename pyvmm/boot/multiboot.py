# SPDX-License-Identifier: MIT
"""Multiboot 1 (specification 0.6.96): the header in the image, the information for the kernel."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pyvmm.boot.claims import BootData, Claim, Kernel, claim_of
from pyvmm.boot.elf import ElfImage, LoadSegment
from pyvmm.boot.free_memory import FreeMemory
from pyvmm.boot.plan import BootProtocol, EntryState, GuestNeed
from pyvmm.boot.relocation import entry_gpa, load_offset, moved, offset_remarks
from pyvmm.boot.tables import boot_gdt, protected_mode
from pyvmm.errors import ImageError
from pyvmm.hosts.registers import Regs
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import (
    BIOS_DATA,
    BOOT_GDT,
    COMMAND_LINE,
    HIGH_MEMORY_START,
    LOW_USABLE_END,
    MULTIBOOT_INFO,
    MULTIBOOT_MEMMAP,
    GpaRange,
)

HEADER_MAGIC = 0x1BAD_B002
LOADER_MAGIC = 0x2BAD_B002
"""Value of EAX at the entry (3.2 Machine state)."""
SEARCH_SIZE = 8192
"""The header lies within the first 8192 bytes, 4-byte aligned (3.1.1 The layout of header)."""
MULTIBOOT_2_MAGIC = 0xE852_50D6
"""Multiboot 2 (specification 2.0, 3.1.1): within the first 32768 bytes, 8-byte aligned."""
_MULTIBOOT_2_SEARCH = 32768
_MULTIBOOT_2_HEADER = struct.Struct("<IIII")

_MAGIC_BYTES = HEADER_MAGIC.to_bytes(4, "little")
_HEADER = struct.Struct("<III")
_ADDRESSES = struct.Struct("<IIIII")
_INFO = struct.Struct("<18I")
_MODULE = struct.Struct("<IIII")
_MEMMAP_ENTRY = struct.Struct("<IQQI")
_LOADER_NAME = b"pyvmm\0"
_BIOS_DATA = struct.Struct("<H12xH3xH")
_FIRST_SERIAL_PORT = 0x3F8


class HeaderFlag(enum.IntFlag):
    """Flags of the header (3.1.2); bits 0..15 are demands, the rest only says what is there."""

    ALIGN_MODULES = 1 << 0
    MEMORY_INFO = 1 << 1
    VIDEO = 1 << 2
    ADDRESSES = 1 << 16


_DEMANDS = 0xFFFF
_SUPPORTED = (HeaderFlag.ALIGN_MODULES | HeaderFlag.MEMORY_INFO | HeaderFlag.VIDEO).value
"""An int: ``~`` of an IntFlag has no more bits than the widest flag that it knows."""


class InfoFlag(enum.IntFlag):
    """Flags that tell which fields of the information are valid (3.3 Boot information format)."""

    MEMORY = 1 << 0
    COMMAND_LINE = 1 << 2
    MODULES = 1 << 3
    MEMORY_MAP = 1 << 6
    LOADER_NAME = 1 << 9


class Header(NamedTuple):
    """A Multiboot header with a right checksum, `offset` bytes into the file."""

    offset: int
    flags: int


def find_header(view: memoryview) -> Header | None:
    """The first Multiboot header in `view` (the whole file) whose checksum is right, or None."""
    window = bytes(view[:SEARCH_SIZE])
    offset = window.find(_MAGIC_BYTES)
    while offset >= 0:
        if offset % 4 == 0 and offset + _HEADER.size <= len(window):
            magic, flags, checksum = _HEADER.unpack_from(window, offset)
            if (magic + flags + checksum) & 0xFFFF_FFFF == 0:
                return Header(offset, flags)
        offset = window.find(_MAGIC_BYTES, offset + 1)
    return None


def has_multiboot_2_header(view: memoryview) -> bool:
    """Tell whether `view` (the whole file) has a header of the other protocol.

    It says no more than that, because that protocol is not spoken here.
    """
    window = bytes(view[:_MULTIBOOT_2_SEARCH])
    magic = MULTIBOOT_2_MAGIC.to_bytes(4, "little")
    offset = window.find(magic)
    while offset >= 0:
        fields = window[offset : offset + _MULTIBOOT_2_HEADER.size]
        if offset % 8 == 0 and len(fields) == _MULTIBOOT_2_HEADER.size:
            is_right = sum(_MULTIBOOT_2_HEADER.unpack(fields)) & 0xFFFF_FFFF == 0
            if is_right:
                return True
        offset = window.find(magic, offset + 1)
    return False


def multiboot_kernel(
    view: memoryview,
    header: Header,
    elf: ElfImage | None,
    address_map: AddressMap,
    attempt: str,
    *,
    needs: GuestNeed | None = None,
) -> Kernel:
    """The kernel of an image with a Multiboot header; `elf` where the image is an ELF file.

    The header's addresses win over the ELF's (3.1.3 The address fields of Multiboot header). Raises
    `ImageError` when the header demands something unsupported or contradicts the file.
    """
    unknown = header.flags & _DEMANDS & ~_SUPPORTED
    if unknown:
        raise ImageError(attempt, f"its Multiboot header demands unknown features {unknown:#x}")
    remarks: tuple[str, ...] = ()
    if header.flags & HeaderFlag.VIDEO:
        remarks = ("its Multiboot header asks for a video mode, and none is set",)
    if header.flags & HeaderFlag.ADDRESSES:
        claim, entry = _from_addresses(view, header, attempt)
        claims: tuple[Claim, ...] = (claim,)
    elif elf is not None:
        offset = load_offset(elf, None, address_map)
        remarks += offset_remarks(elf, offset)
        segments = moved(elf, offset).segments
        claims = tuple(segment.claim for segment in segments)
        entry = _physical_entry(elf, segments, offset, attempt)
    else:
        raise ImageError(
            attempt,
            "its Multiboot header has no load addresses and the image is no ELF file",
            "set flag 16 of the header and fill in the addresses",
        )
    if entry >= 1 << 32:
        raise ImageError(attempt, f"its entry {entry:#x} is above 4 GiB: the entry is 32-bit")
    return Kernel(BootProtocol.MULTIBOOT, claims, entry, needs, remarks=remarks)


def multiboot_boot_data(
    entry: int,
    address_map: AddressMap,
    command_line: bytes,
    initrd: GpaRange | None,
    *,
    module_name: bytes,
    free: FreeMemory,
) -> BootData:
    """GDT, information (with the initrd as its one module), memory map and command line.

    `command_line` and `module_name` are without their zero bytes. ``mem_lower`` and ``mem_upper``
    are in KiB; the latter ends at the first hole (3.3). Raises `ImageError` where there is no room.
    """
    gdt = free.table(BOOT_GDT, boot_gdt(), "the boot GDT")
    memory_map = free.table(
        MULTIBOOT_MEMMAP,
        b"".join(
            _MEMMAP_ENTRY.pack(_MEMMAP_ENTRY.size - 4, one.range.start, one.range.size, one.type)
            for one in address_map.e820()
        ),
        "the Multiboot memory map",
    )
    line = free.table(COMMAND_LINE, command_line + b"\0", "the command line")
    flags = InfoFlag.MEMORY | InfoFlag.COMMAND_LINE | InfoFlag.MEMORY_MAP | InfoFlag.LOADER_NAME
    strings = _LOADER_NAME
    if initrd is not None:
        flags |= InfoFlag.MODULES
        strings += module_name + b"\0"
    strings += bytes(-len(strings) % 4)
    what = "the Multiboot information"
    size = _INFO.size + len(strings) + (_MODULE.size if initrd is not None else 0)
    where = free.place(MULTIBOOT_INFO, size, what)
    loader_name = where + _INFO.size
    module = b""
    if initrd is not None:
        name = loader_name + len(_LOADER_NAME)
        module = _MODULE.pack(initrd.start, initrd.end, name, 0)
    info = _INFO.pack(
        flags,
        LOW_USABLE_END >> 10,
        (address_map.ram[0].range.end - HIGH_MEMORY_START) >> 10,
        0,  # boot_device
        line.range.start,
        1 if module else 0,
        loader_name + len(strings) if module else 0,
        *(0, 0, 0, 0),  # symbols
        len(memory_map.data),
        memory_map.range.start,
        *(0, 0),  # drives
        0,  # config_table
        loader_name,
        0,  # apm_table
    )
    regs = Regs(rax=LOADER_MAGIC, rbx=where, rip=entry)
    return BootData(
        (
            *_bios_data(free),
            gdt,
            claim_of(where, info + strings + module, what),
            memory_map,
            line,
        ),
        EntryState(regs, protected_mode(gdt.range.start)),
    )


def _bios_data(free: FreeMemory) -> Iterator[Claim]:
    """The start of a PC's BIOS data area, where the image leaves it alone.

    Kernels look there for the end of low memory (Xen's ``arch/x86/boot/head.S``), whatever else
    they are told.
    """
    data = _BIOS_DATA.pack(_FIRST_SERIAL_PORT, LOW_USABLE_END >> 4, LOW_USABLE_END >> 10)
    claim = claim_of(BIOS_DATA, data, "the BIOS data area")
    if free.has(claim.range):
        yield claim


def _from_addresses(view: memoryview, header: Header, attempt: str) -> tuple[Claim, int]:
    """The claim and the entry by the header's address fields (3.1.3)."""
    start = header.offset + _HEADER.size
    fields = bytes(view[start : start + _ADDRESSES.size])
    if len(fields) < _ADDRESSES.size:
        raise ImageError(attempt, "its Multiboot header is cut off")
    header_address, load, load_end, bss_end, entry = _ADDRESSES.unpack(fields)
    first = header.offset - (header_address - load)
    if not 0 <= first <= header.offset:
        raise ImageError(
            attempt,
            f"its Multiboot header says it is loaded at {header_address:#x} and the image at "
            f"{load:#x}, which the file contradicts",
        )
    size = load_end - load if load_end else len(view) - first
    if not 0 < size <= len(view) - first:
        raise ImageError(
            attempt,
            f"its Multiboot header asks to load {size} bytes, the file has {len(view) - first}",
            "the image is cut off or damaged",
        )
    end = load + size
    if bss_end:
        if bss_end < end:
            raise ImageError(attempt, f"its Multiboot bss ends at {bss_end:#x}, within the image")
        end = bss_end
    return Claim(GpaRange(load, end), view[first : first + size], "the Multiboot image"), entry


def _physical_entry(
    elf: ElfImage, segments: tuple[LoadSegment, ...], offset: int, attempt: str
) -> int:
    """The entry's GPA: e_entry is virtual, but some linker scripts give the physical one.

    `segments` are those of `elf`, moved by `offset` bytes. Raises what `entry_gpa` does.
    """
    for segment in segments:
        gpa = segment.physical(elf.entry)
        if gpa is not None:
            return gpa
    return entry_gpa(elf, elf.entry, offset, attempt)
