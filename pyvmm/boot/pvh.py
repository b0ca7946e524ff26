# SPDX-License-Identifier: MIT
"""PVH direct boot (Xen ``docs/misc/pvh.pandoc``, ``public/arch-x86/hvm/start_info.h``).

The kernel says in an ELF note where its 32-bit entry is; it is entered in protected mode with
paging off and EBX pointing to ``struct hvm_start_info``.
"""

from __future__ import annotations

import struct

from pyvmm.boot.claims import Claim, Kernel, claim_of
from pyvmm.boot.elf import ElfImage, Note
from pyvmm.boot.plan import BootProtocol, EntryState, GuestNeed
from pyvmm.boot.tables import boot_gdt, protected_mode
from pyvmm.errors import ImageError
from pyvmm.hosts.registers import Regs
from pyvmm.memory.layout import (
    BOOT_GDT,
    COMMAND_LINE,
    PVH_MEMMAP,
    PVH_START_INFO,
    GpaRange,
    MemoryLayout,
)

XEN_NOTE = b"Xen"
PHYS32_ENTRY = 18
"""XEN_ELFNOTE_PHYS32_ENTRY: its descriptor is the GPA of the entry, 4 or 8 bytes."""
PYVMM_NOTE = b"pyvmm"
NEEDS = 1
"""Our own note: its descriptor is a u32 of `GuestNeed` bits."""
PRIVATE_ENTRY = 2
"""Our own note: a u64, the GPA where the firmware enters after a private launch."""

START_MAGIC = 0x336E_C578
"""XEN_HVM_START_MAGIC_VALUE: "xEn3" with bit 7 of the E set."""
_VERSION = 1  # the first with a memory map

_START_INFO = struct.Struct("<IIIIQQQQII")
_MODULE = struct.Struct("<QQQQ")
_MEMMAP_ENTRY = struct.Struct("<QQII")


def entry_of(elf: ElfImage, attempt: str) -> int | None:
    """The entry's GPA by the PVH note, None without one. Raises `ImageError` for a broken note."""
    entries: set[int] = set()
    for note in _notes(elf, XEN_NOTE, PHYS32_ENTRY):
        if len(note.descriptor) not in (4, 8):
            size = len(note.descriptor)
            raise ImageError(attempt, f"its PVH note holds {size} bytes, not 4 or 8")
        entries.add(int.from_bytes(note.descriptor, "little"))
    if not entries:
        return None
    if len(entries) > 1:
        raise ImageError(attempt, "it has PVH notes that contradict each other")
    (entry,) = entries
    if entry >= 1 << 32:
        raise ImageError(attempt, f"its PVH entry {entry:#x} is above 4 GiB: the entry is 32-bit")
    return entry


def needs_of(elf: ElfImage, attempt: str) -> GuestNeed | None:
    """What the guest says that it needs (its ``pyvmm`` note), None where it does not say.

    Raises `ImageError` when the note is broken or names something unknown.
    """
    needs: GuestNeed | None = None
    known = sum(GuestNeed)
    for note in _notes(elf, PYVMM_NOTE, NEEDS):
        if len(note.descriptor) != 4:
            size = len(note.descriptor)
            raise ImageError(attempt, f"its pyvmm note holds {size} bytes, not 4")
        bits = int.from_bytes(note.descriptor, "little")
        if bits & ~known:
            raise ImageError(
                attempt,
                f"its pyvmm note asks for unknown needs {bits & ~known:#x}",
                "use a newer pyvmm, or rebuild the guest",
            )
        needs = (needs or GuestNeed(0)) | GuestNeed(bits)
    return needs


def private_entry_of(elf: ElfImage, attempt: str) -> int | None:
    """The GPA where the firmware enters after a private launch, None where the image has no note.

    Raises `ImageError` for a broken note, and for one that contradicts another.
    """
    entries: set[int] = set()
    for note in _notes(elf, PYVMM_NOTE, PRIVATE_ENTRY):
        if len(note.descriptor) != 8:
            size = len(note.descriptor)
            raise ImageError(attempt, f"its note of a private entry holds {size} bytes, not 8")
        entries.add(int.from_bytes(note.descriptor, "little"))
    if len(entries) > 1:
        raise ImageError(attempt, "it has notes of private entries that contradict each other")
    return entries.pop() if entries else None


def pvh_kernel(elf: ElfImage, entry: int, attempt: str) -> Kernel:
    """The kernel to be entered at GPA `entry` by the PVH ABI. Raises `ImageError` (its notes)."""
    return Kernel(
        BootProtocol.PVH,
        tuple(segment.claim for segment in elf.segments),
        EntryState(Regs(rbx=PVH_START_INFO, rip=entry), protected_mode()),
        needs_of(elf, attempt),
        private_entry_of(elf, attempt),
        PVH_START_INFO,
    )


def pvh_boot_data(
    layout: MemoryLayout, command_line: bytes, initrd: GpaRange | None
) -> tuple[Claim, ...]:
    """GDT, start info (with the initrd as its one module), memory map and command line.

    `command_line` is without its zero byte. ``rsdp_paddr`` is 0: there are no ACPI tables.
    """
    memory_map = b"".join(
        _MEMMAP_ENTRY.pack(entry.range.start, entry.range.size, entry.kind, 0)
        for entry in layout.memory_map
    )
    modules = b"" if initrd is None else _MODULE.pack(initrd.start, initrd.size, 0, 0)
    start_info = _START_INFO.pack(
        START_MAGIC,
        _VERSION,
        0,  # flags: none is defined for a guest
        1 if modules else 0,
        PVH_START_INFO + _START_INFO.size if modules else 0,
        COMMAND_LINE,
        0,  # rsdp_paddr
        PVH_MEMMAP,
        len(layout.memory_map),
        0,
    )
    return (
        claim_of(BOOT_GDT, boot_gdt(), "the boot GDT"),
        claim_of(PVH_START_INFO, start_info + modules, "the PVH start info"),
        claim_of(PVH_MEMMAP, memory_map, "the PVH memory map"),
        claim_of(COMMAND_LINE, command_line + b"\0", "the command line"),
    )


def _notes(elf: ElfImage, name: bytes, number: int) -> tuple[Note, ...]:
    return tuple(note for note in elf.notes if note.name == name and note.type == number)
