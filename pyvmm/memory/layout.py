# SPDX-License-Identifier: MIT
"""The guest-physical address space, in one place: every range and address, and why it is there.

::

    0x0000_0000  RAM          usable up to 0x9_FC00 (real-mode memory; boot data lives here)
    0x0009_FC00  reserved     where a BIOS keeps its EBDA, the VGA window and ROMs; it is backed by
                              the same memslot as RAM (holes cost memslots), but the memory map
                              tells the guest to keep out
    0x0010_0000  RAM          kernels are linked here or above
    0xC000_0000  MMIO hole    local APIC, I/O APIC, and devices to come; no memslot
    0x1_0000_0000 RAM         what did not fit below the hole

All addresses are GPAs in bytes, all ends exclusive, all sizes multiples of a page.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.rules.abi import PAGE_SIZE

MIB = 1 << 20
GIB = 1 << 30

MIN_MEMORY = 2 * MIB
"""The least RAM: the first MiB for boot data, the second for a kernel."""

LOW_USABLE_END = 0x9FC00
"""End of the usable memory below 1 MiB: where a PC's extended BIOS data area begins."""
HIGH_MEMORY_START = 0x100000
"""1 MiB: kernels are loaded from here on."""
MAX_MEMORY = 1 << 51
"""Half of what 52 bits of physical address reach, the most that x86 has: room for holes."""
HOLE_START = 0xC000_0000
"""3 GiB: start of the MMIO hole. RAM below it is one memslot."""
HOLE_END = 1 << 32
"""4 GiB: end of the MMIO hole; the rest of RAM follows."""

# Boot data, all below LOW_USABLE_END and none of it overlapping (a test checks).
BIOS_DATA = 0x400
"""A PC's BIOS data area: at 0 the first serial port, at 0xE the segment where usable memory ends,
at 0x13 its size in KiB (IBM PC/AT Technical Reference, ROM BIOS listing)."""
BOOT_GDT = 0x500
"""The GDT that the entry state's selectors are taken from: just above the BIOS data area."""
PVH_START_INFO = 0x6000
"""``struct hvm_start_info``, its module list behind it: one page."""
PVH_MEMMAP = 0x7000
"""``struct hvm_memmap_table_entry[]``: less than 0xC00 bytes, so that it ends below FLAT_ENTRY."""
MULTIBOOT_INFO = 0x6000
"""Multiboot 1 information; never together with PVH."""
MULTIBOOT_MEMMAP = 0x7000
"""Multiboot 1 memory map."""
FLAT_ENTRY = 0x7C00
"""GPA at which a PC's BIOS puts a boot sector, and to which it jumps."""
COMMAND_LINE = 0x20000
"""The kernel's command line, terminated by a zero byte."""
COMMAND_LINE_MAX = 0x10000
"""The longest command line with its zero byte, in bytes."""

# A private launch (firmware/README.md): three ranges in the MMIO hole, pages in the reserved range.
WINDOW_GPA = 0xC000_0000
"""The shared window: memory that has no private side."""
WINDOW_MAX = 0x1000_0000
"""The largest shared window in bytes: up to the staging area."""
STAGING_GPA = 0xD000_0000
"""The staging area: boot block and payload, there during the launch only."""
STAGING_MAX = 0x2000_0000
"""The largest staging area in bytes."""
FIRMWARE_GPA = 0xFFFE_0000
"""The firmware, there during the launch only; its first page is the launch report."""
FIRMWARE_SIZE = 0x2_0000
"""Up to 4 GiB: the reset vector is 16 bytes below."""
LAUNCH_TABLES = 0xE_0000
"""Page tables that the guest is entered with: the first 4 GiB, identity-mapped."""
LAUNCH_INFO = 0xE_8000
"""GPA of the launch info, which the firmware gives to the guest: one page."""
LAUNCH_CODE = 0xE_9000
"""The last code of the firmware, where other processors wait: one page."""
LAUNCH_MAILBOX = 0xE_A000
"""GPA of the mailboxes by which the guest wakes other processors: one page, 16 bytes each."""
LAUNCH_END = 0xE_B000
"""The end of what the firmware leaves in RAM, from `LAUNCH_TABLES` on."""


class RangeKind(enum.IntEnum):
    """Types of the memory map; the values are those of E820 and PVH."""

    RAM = 1
    RESERVED = 2


@dataclass(frozen=True, slots=True)
class GpaRange:
    """[start, end) in bytes of guest-physical address."""

    start: int
    end: int

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self.end - self.start

    def contains(self, start: int, size: int) -> bool:
        """Tell whether [start, start + size) lies within."""
        return self.start <= start and start + size <= self.end

    def overlaps(self, other: GpaRange) -> bool:
        """Tell whether the two share a byte."""
        return self.start < other.end and other.start < self.end


@dataclass(frozen=True, slots=True)
class MapEntry:
    """One line of the memory map that the guest is given."""

    range: GpaRange
    kind: RangeKind


@dataclass(frozen=True, slots=True)
class RamRegion:
    """Guest RAM that is one memslot: `range`, and where it starts in the backing file (bytes)."""

    slot: int
    range: GpaRange
    file_offset: int


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """The layout of a guest with `memory` bytes of RAM: use `of`."""

    memory: int
    regions: tuple[RamRegion, ...]
    memory_map: tuple[MapEntry, ...]

    @classmethod
    def of(cls, memory: int) -> MemoryLayout:
        """Lay out `memory` bytes of RAM.

        Raises `UsageError` when it is no multiple of a page or less than `MIN_MEMORY`,
        `HostLacksError` when it is more than `MAX_MEMORY`.
        """
        attempt = f"give the guest {memory} bytes of memory"
        if memory % PAGE_SIZE:
            raise UsageError(attempt, "not a multiple of the page size, 4096", "round it up")
        if memory < MIN_MEMORY:
            raise UsageError(
                attempt, f"less than the minimum, {MIN_MEMORY >> 20} MiB", "ask for more"
            )
        if memory > MAX_MEMORY:
            raise HostLacksError(attempt, "no x86 processor can address that", "ask for less")
        low = GpaRange(0, min(memory, HOLE_START))
        regions = [RamRegion(0, low, 0)]
        entries = [
            MapEntry(GpaRange(0, LOW_USABLE_END), RangeKind.RAM),
            MapEntry(GpaRange(LOW_USABLE_END, HIGH_MEMORY_START), RangeKind.RESERVED),
            MapEntry(GpaRange(HIGH_MEMORY_START, low.end), RangeKind.RAM),
        ]
        if memory > HOLE_START:
            high = GpaRange(HOLE_END, HOLE_END + memory - HOLE_START)
            regions.append(RamRegion(1, high, HOLE_START))
            entries.append(MapEntry(high, RangeKind.RAM))
        return cls(memory, tuple(regions), tuple(entries))

    @property
    def end(self) -> int:
        """The first GPA above all RAM."""
        return self.regions[-1].range.end

    def file_offset(self, gpa: int, size: int) -> int | None:
        """Find the file offset of [gpa, gpa + size); None unless one region has all of it."""
        for region in self.regions:
            if region.range.contains(gpa, size):
                return region.file_offset + gpa - region.range.start
        return None

    def is_usable(self, gpa: int, size: int) -> bool:
        """Tell whether [gpa, gpa + size) lies within one usable range of the memory map."""
        return any(
            entry.kind is RangeKind.RAM and entry.range.contains(gpa, size)
            for entry in self.memory_map
        )
