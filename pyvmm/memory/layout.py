# SPDX-License-Identifier: MIT
"""Places of the guest-physical address space: every address that a machine has is named here.

::

    0x0000_0000   RAM       usable up to 0x9_FC00 (real-mode memory; boot data lies here)
    0x0009_FC00   reserved  where a BIOS keeps its EBDA, the VGA window and ROMs; it is backed by
                            the same memslot as RAM (holes cost memslots), but the memory map
                            tells the guest to keep out. ACPI tables lie at its end.
    0x0010_0000   RAM       kernels are linked here or above
    0xC000_0000   hole      no RAM: window and staging area of a private launch, or PCI's low
                            window; ECAM, controllers, devices, firmware
    0x1_0000_0000 RAM       what did not fit below the hole; the high PCI window is behind it

`pyvmm.memory.address_map` makes of them what one machine has. All addresses are GPAs in bytes, all
ends exclusive, all sizes multiples of a page.
"""

from __future__ import annotations

from typing import NamedTuple

from pyvmm.rules.abi import APIC_DEFAULT_BASE, IOAPIC_DEFAULT_BASE

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
LEAST_PHYSICAL_ADDRESS_BITS = 36
"""The width where CPUID has no leaf 0x80000008 (SDM vol. 3A, 4.1.4)."""

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
ZERO_PAGE = 0x8000
"""Linux's ``struct boot_params``: one page."""
BOOT_PAGE_TABLES = 0x9000
"""Page tables that Linux is entered with in long mode: 24 KiB."""
FLAT_ENTRY = 0x7C00
"""GPA at which a PC's BIOS puts a boot sector, and to which it jumps."""
REAL_MODE_SETUP = 0x10000
"""Setup code of a bzImage that is entered in real mode: a segment, up to `COMMAND_LINE`."""
REAL_MODE_SETUP_SIZE = 0x10000
"""Its size in bytes, heap and stack at its end."""
BIOS_SEGMENT = 0xF000
BIOS_GPA = 0xF_F000
"""The BIOS that such code calls: one page, the last below 1 MiB."""
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

# Interrupt controllers and devices in the hole.
IOAPIC_GPA = IOAPIC_DEFAULT_BASE
"""The I/O APIC's registers: one page."""
LOCAL_APIC_GPA = APIC_DEFAULT_BASE
"""The local APIC's registers, while nobody moves them: one page."""
TEST_WINDOW_GPA = 0xFF00_0000
"""The window of the test device, where QEMU's pc-testdev has it (QEMU ``hw/misc/pc-testdev.c``)."""
VIRTIO_GPA = 0xFEF0_0000
"""Registers of a virtio device: behind the addresses to which messages are written."""
VIRTIO_STRIDE = 0x200
"""Bytes from one virtio device's registers to the next one's, as on QEMU's microvm."""

# PCI, for a machine that has it.
ACPI_GPA = 0xE_0000
"""ACPI tables, up to 1 MiB: guests look for the RSDP from here on (ACPI 6.5, 5.2.5.1)."""
ECAM_GPA = 0xE000_0000
"""Memory-mapped PCI configuration (PCI Express Base Specification, 7.2.2)."""
ECAM_SIZE = MIB
"""One bus: guests look for devices on each that there is."""
PCI_LOW_GPA = HOLE_START
"""The window for BARs below 4 GiB: up to `ECAM_GPA`."""
PCI_LOW_BESIDE_LAUNCH_GPA = STAGING_GPA + STAGING_MAX
"""The same window where a private launch takes that place: up to the I/O APIC."""


class GpaRange(NamedTuple):
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
