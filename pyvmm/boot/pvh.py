# SPDX-License-Identifier: MIT
"""PVH direct boot (Xen ``docs/misc/pvh.pandoc``, ``public/arch-x86/hvm/start_info.h``).

The kernel says in an ELF note where its 32-bit entry is; it is entered in protected mode with
paging off and EBX pointing to ``struct hvm_start_info``.
"""

from __future__ import annotations

import struct

from pyvmm.boot.claims import BootData, Kernel, claim_of
from pyvmm.boot.elf import ElfImage
from pyvmm.boot.elf_notes import Note
from pyvmm.boot.free_memory import FreeMemory
from pyvmm.boot.plan import BootProtocol, EntryState, GuestNeed
from pyvmm.boot.relocation import entry_gpa, load_offset, moved, offset_remarks, rule_of
from pyvmm.boot.tables import boot_gdt, protected_mode
from pyvmm.errors import ImageError
from pyvmm.hosts.registers import Regs
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import BOOT_GDT, COMMAND_LINE, PVH_MEMMAP, PVH_START_INFO, GpaRange

XEN_NOTE = b"Xen"
PHYS32_ENTRY = 18
"""XEN_ELFNOTE_PHYS32_ENTRY: its descriptor is the GPA of the entry, 4 or 8 bytes."""
PHYS32_RELOC = 19
"""XEN_ELFNOTE_PHYS32_RELOC: up to three words, see `pyvmm.boot.relocation.rule_of`."""
PYVMM_NOTE = b"pyvmm"
_LINUX_NOTE = b"Linux"
"""Owner of notes that Linux's build puts into every vmlinux (its ``init/version.c``)."""
_LINUX_COMMAND_LINE = 2047
"""COMMAND_LINE_SIZE less the zero byte (Linux ``arch/x86/include/asm/setup.h``): it cuts silently
what is longer."""
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
    """The entry's GPA by the PVH note, None without one. Raises `ImageError` for a broken note.

    It is where the image is linked to: `pvh_kernel` may move it.
    """
    entries: set[int] = set()
    for note in _notes(elf, XEN_NOTE, PHYS32_ENTRY):
        if note.is_cut:
            raise ImageError(attempt, "its PVH note is longer than the segment that it is in")
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
    """Read the guest's needs from its ``pyvmm`` note; None if it has none.

    Raises `ImageError` when the note is broken or names something unknown. A note that is cut off
    is none: whatever damaged it did not mean us.
    """
    needs: GuestNeed | None = None
    known = sum(GuestNeed)
    for note in _notes(elf, PYVMM_NOTE, NEEDS):
        if note.is_cut:
            continue
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


def pvh_kernel(elf: ElfImage, entry: int, address_map: AddressMap, attempt: str) -> Kernel:
    """The kernel to be entered by the PVH ABI at GPA `entry`, or as far from it as it is moved.

    Raises `ImageError` for an entry that `entry_gpa` refuses, and for its note of needs.
    """
    rule = None
    for note in _notes(elf, XEN_NOTE, PHYS32_RELOC):
        words = note.descriptor[: len(note.descriptor) // 4 * 4]
        rule = rule_of(elf, tuple(word for (word,) in struct.iter_unpack("<I", words)))
    offset = load_offset(elf, rule, address_map)
    private_entry, flaw = _private_entry(elf)
    return Kernel(
        BootProtocol.PVH,
        tuple(segment.claim for segment in moved(elf, offset).segments),
        entry_gpa(elf, entry, offset, attempt),
        needs_of(elf, attempt),
        None if private_entry is None else private_entry + offset,
        flaw,
        offset_remarks(elf, offset),
        most_command_line=_LINUX_COMMAND_LINE
        if any(note.name == _LINUX_NOTE for note in elf.notes)
        else None,
    )


def _private_entry(elf: ElfImage) -> tuple[int | None, str]:
    """The GPA where the firmware enters after a private launch, None for none; and a flaw or "".

    The flaw is for who launches: everybody else can do without the note.
    """
    entries: set[int] = set()
    for note in _notes(elf, PYVMM_NOTE, PRIVATE_ENTRY):
        if note.is_cut:
            return None, "its note of a private entry is longer than the segment that it is in"
        if len(note.descriptor) != 8:
            size = len(note.descriptor)
            return None, f"its note of a private entry holds {size} bytes, not 8"
        entries.add(int.from_bytes(note.descriptor, "little"))
    if len(entries) > 1:
        return None, "it has notes of private entries that contradict each other"
    entry = entries.pop() if entries else None
    if entry is not None and not elf.contains(entry):
        return None, f"its private entry {entry:#x} lies in no loaded segment"
    return entry, ""


def pvh_boot_data(
    entry: int,
    address_map: AddressMap,
    command_line: bytes,
    initrd: GpaRange | None,
    *,
    rsdp: int = 0,
    free: FreeMemory,
) -> BootData:
    """GDT, start info (with the initrd as its one module), memory map and command line.

    `command_line` is without its zero byte. `rsdp` is a GPA, 0 where there are no ACPI
    tables. Raises `ImageError` where there is no room for it.
    """
    gdt = free.table(BOOT_GDT, boot_gdt(), "the boot GDT")
    memory_map = free.table(
        PVH_MEMMAP,
        b"".join(
            _MEMMAP_ENTRY.pack(one.range.start, one.range.size, one.type, 0)
            for one in address_map.e820()
        ),
        "the PVH memory map",
    )
    line = free.table(COMMAND_LINE, command_line + b"\0", "the command line")
    module = b"" if initrd is None else _MODULE.pack(initrd.start, initrd.size, 0, 0)
    what = "the PVH start info"
    where = free.place(PVH_START_INFO, _START_INFO.size + len(module), what)
    start_info = _START_INFO.pack(
        START_MAGIC,
        _VERSION,
        0,  # flags: none is defined for a guest
        1 if module else 0,
        where + _START_INFO.size if module else 0,
        line.range.start,
        rsdp,
        memory_map.range.start,
        len(address_map.e820()),
        0,
    )
    return BootData(
        (gdt, claim_of(where, start_info + module, what), memory_map, line),
        EntryState(Regs(rbx=where, rip=entry), protected_mode(gdt.range.start)),
        where,
    )


def _notes(elf: ElfImage, name: bytes, number: int) -> tuple[Note, ...]:
    return tuple(note for note in elf.notes if note.name == name and note.type == number)
