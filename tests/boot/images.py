# SPDX-License-Identifier: MIT
"""Tiny guest images, byte by byte: right ones, and the means to make them lie."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

HLT = b"\xf4"
ENTRY = 0x100000

PT_LOAD, PT_NOTE = 1, 4
ET_EXEC, ET_DYN = 2, 3
EM_386, EM_X86_64 = 3, 62

EHDR = {32: "<16sHHIIIIIHHHHHH", 64: "<16sHHIQQQIHHHHHH"}
PHDR_SIZE = {32: 32, 64: 56}

# Offsets and formats of fields, to be overwritten by `patch`.
EHDR_FIELDS = {
    32: {"e_type": (16, "H"), "e_machine": (18, "H"), "e_entry": (24, "I"), "e_phoff": (28, "I"),
         "e_phentsize": (42, "H"), "e_phnum": (44, "H")},
    64: {"e_type": (16, "H"), "e_machine": (18, "H"), "e_entry": (24, "Q"), "e_phoff": (32, "Q"),
         "e_phentsize": (54, "H"), "e_phnum": (56, "H")},
}  # fmt: skip
PHDR_FIELDS = {
    32: {"p_type": (0, "I"), "p_offset": (4, "I"), "p_vaddr": (8, "I"), "p_paddr": (12, "I"),
         "p_filesz": (16, "I"), "p_memsz": (20, "I"), "p_align": (28, "I")},
    64: {"p_type": (0, "I"), "p_offset": (8, "Q"), "p_vaddr": (16, "Q"), "p_paddr": (24, "Q"),
         "p_filesz": (32, "Q"), "p_memsz": (40, "Q"), "p_align": (48, "Q")},
}  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """A PT_LOAD segment to build: `zeros` bytes of it are in memory only."""

    gpa: int
    data: bytes = HLT
    zeros: int = 0
    virtual: int | None = None


def note(name: bytes, number: int, descriptor: bytes, align: int = 4) -> bytes:
    """One ELF note, padded."""
    name += b"\0"
    header = struct.pack("<III", len(name), len(descriptor), number)
    padded = header + name
    padded += bytes(-len(padded) % align) + descriptor
    return padded + bytes(-len(padded) % align)


def pvh_note(entry: int = ENTRY, size: int = 4, align: int = 4) -> bytes:
    """XEN_ELFNOTE_PHYS32_ENTRY."""
    return note(b"Xen", 18, entry.to_bytes(size, "little"), align)


def needs_note(bits: int) -> bytes:
    """Our own note."""
    return note(b"pyvmm", 1, bits.to_bytes(4, "little"))


def private_note(entry: int) -> bytes:
    """Our own note of where the firmware enters."""
    return note(b"pyvmm", 2, entry.to_bytes(8, "little"))


def multiboot_header(flags: int = 0, addresses: Sequence[int] = (), checksum: int = 0) -> bytes:
    """A Multiboot 1 header; `checksum` is added to the right one."""
    magic = 0x1BADB002
    right = -(magic + flags) + checksum & 0xFFFFFFFF
    return struct.pack(f"<{3 + len(addresses)}I", magic, flags, right, *addresses)


def multiboot_2_header(architecture: int = 0, length: int = 24, checksum: int = 0) -> bytes:
    """A Multiboot 2 header without tags; `checksum` is added to the right one."""
    magic = 0xE85250D6
    right = -(magic + architecture + length) + checksum & 0xFFFFFFFF
    return struct.pack("<4IHHI", magic, architecture, length, right, 0, 0, 8)


def elf(
    segments: Sequence[Segment] = (Segment(ENTRY),),
    notes: bytes = b"",
    bits: int = 64,
    entry: int = ENTRY,
    multiboot: bytes = b"",
    note_align: int = 4,
    more_notes: Sequence[bytes] = (),
    kind: int = ET_EXEC,
    align: int = 4,
) -> bytes:
    """An executable: header, program headers (notes first, if any), Multiboot header, contents."""
    header_size = struct.calcsize(EHDR[bits])
    note_segments = [one for one in (notes, *more_notes) if one]
    count = len(segments) + len(note_segments)
    offset = header_size + count * PHDR_SIZE[bits]
    body = multiboot + bytes(-len(multiboot) % 8)
    headers = b""
    for content in note_segments:
        size = len(content)
        headers += phdr(bits, PT_NOTE, offset + len(body), 0, 0, size, size, note_align)
        body += content
    for segment in segments:
        virtual = segment.gpa if segment.virtual is None else segment.virtual
        size = len(segment.data)
        headers += phdr(
            bits,
            PT_LOAD,
            offset + len(body),
            virtual,
            segment.gpa,
            size,
            size + segment.zeros,
            align,
        )
        body += segment.data
    ident = bytes((0x7F, *b"ELF", 1 if bits == 32 else 2, 1, 1)).ljust(16, b"\0")
    machine = EM_386 if bits == 32 else EM_X86_64
    sizes = (header_size, PHDR_SIZE[bits], count, 0, 0, 0)
    return (
        struct.pack(EHDR[bits], ident, kind, machine, 1, entry, header_size, 0, 0, *sizes)
        + headers
        + body
    )


def phdr(
    bits: int,
    kind: int,
    offset: int,
    virtual: int,
    physical: int,
    file_size: int,
    memory_size: int,
    align: int = 4,
) -> bytes:
    """One program header."""
    if bits == 32:
        return struct.pack("<8I", kind, offset, virtual, physical, file_size, memory_size, 5, align)
    return struct.pack(
        "<IIQQQQQQ", kind, 5, offset, virtual, physical, file_size, memory_size, align
    )


def pvh(bits: int = 64, **options: object) -> bytes:
    """The least PVH image."""
    return elf(bits=bits, **{"notes": pvh_note(), **options})  # type: ignore[arg-type]


def patch(image: bytes, offset: int, fmt: str, value: int) -> bytes:
    """`image` with one little-endian field overwritten."""
    size = struct.calcsize("<" + fmt)
    return image[:offset] + struct.pack("<" + fmt, value) + image[offset + size :]


def patch_header(image: bytes, field: str, value: int, bits: int = 64) -> bytes:
    """`image` with a field of the ELF header overwritten."""
    return patch(image, *EHDR_FIELDS[bits][field], value)


def patch_segment(image: bytes, index: int, field: str, value: int, bits: int = 64) -> bytes:
    """`image` with a field of program header `index` overwritten (0 is the notes, if any)."""
    offset, fmt = PHDR_FIELDS[bits][field]
    return patch(
        image,
        struct.calcsize(EHDR[bits]) + index * PHDR_SIZE[bits] + offset,
        fmt,
        value,
    )


def raw_multiboot(
    load: int = ENTRY,
    prefix: int = 16,
    code: bytes = HLT,
    bss: int = 0x1000,
    flags: int = 1 << 16,
    **changed: int,
) -> bytes:
    """A raw image: `prefix` bytes, a header with addresses, `code`; `changed` are its fields."""
    header_size = 32
    fields = {
        "header": load + prefix,
        "load": load,
        "load_end": load + prefix + header_size + len(code),
        "bss_end": load + prefix + header_size + len(code) + bss,
        "entry": load + prefix + header_size,
    }
    fields.update(changed)
    header = multiboot_header(flags, tuple(fields.values()))
    return bytes(prefix) + header + code
