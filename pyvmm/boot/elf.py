# SPDX-License-Identifier: MIT
"""ELF executables, believed after checking (System V gABI, chapters 4, 5).

Their two structures are read with `struct`: pyelftools would take 10 ms of every start of a guest,
and knows the names for messages about what is refused.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from pyvmm.boot.claims import Claim
from pyvmm.boot.elf_notes import Note, read_notes
from pyvmm.errors import ImageError
from pyvmm.memory.layout import GpaRange

MAGIC = b"\x7fELF"

MAX_PROGRAM_HEADERS = 128
"""More than any kernel has (Linux: 5); bounds the work that a hostile image can cause."""

_EM_386, _EM_X86_64 = 3, 62
_ET_EXEC, _ET_DYN = 2, 3
_PT_LOAD, _PT_NOTE = 1, 4
_IDENT_SIZE = 16
_PHYSICAL_END = 1 << 64


class ElfClass(enum.IntEnum):
    """EI_CLASS."""

    ELF32 = 1
    ELF64 = 2


class LoadSegment(NamedTuple):
    """A PT_LOAD segment that occupies memory: `claim` by physical address, `virtual` is p_vaddr."""

    claim: Claim
    virtual: int

    def physical(self, address: int) -> int | None:
        """The GPA of a virtual address in this segment, None if it lies elsewhere."""
        offset = address - self.virtual
        return self.claim.range.start + offset if 0 <= offset < self.claim.range.size else None


class ElfImage(NamedTuple):
    """Parts of an ELF file that booting needs.

    `entry` is e_entry as it stands: usually virtual. `note_damage` says of
    each segment of notes where it makes no sense: whoever misses a note may tell.
    `is_relocatable`: ET_DYN, made to run anywhere; `align` is the largest p_align of its segments,
    in bytes.
    """

    elf_class: ElfClass
    entry: int
    segments: tuple[LoadSegment, ...]
    notes: tuple[Note, ...]
    note_damage: tuple[str, ...]
    is_relocatable: bool
    align: int

    def contains(self, gpa: int) -> bool:
        """Tell whether a segment is linked to a range that contains `gpa`."""
        return any(segment.claim.range.contains(gpa, 1) for segment in self.segments)


class _FileHeader(NamedTuple):
    """Elf32_Ehdr or Elf64_Ehdr, behind e_ident."""

    type: int
    machine: int
    version: int
    entry: int
    program_headers: int
    section_headers: int
    flags: int
    size: int
    program_header_size: int
    program_header_count: int


class _ProgramHeader(NamedTuple):
    """Elf32_Phdr or Elf64_Phdr."""

    number: int
    type: int
    offset: int
    virtual: int
    physical: int
    file_size: int
    memory_size: int
    align: int


_FILE_HEADERS = {
    ElfClass.ELF32: struct.Struct("<16xHHIIIIIHHH6x"),
    ElfClass.ELF64: struct.Struct("<16xHHIQQQIHHH6x"),
}
_PROGRAM_HEADERS = {
    ElfClass.ELF32: struct.Struct("<IIIIII4xI"),
    ElfClass.ELF64: struct.Struct("<I4xQQQQQQ"),
}
"""Each without p_flags, which lies elsewhere in the two; all else is in one order."""


class _Reader:
    """The bytes of an image: what is asked of them lies within, or they are refused."""

    def __init__(self, view: memoryview, attempt: str) -> None:
        self._view = view
        self._attempt = attempt
        self.elf_class = self._class_of_ident()

    def fail(self, cause: str, remedy: str = "") -> ImageError:
        return ImageError(self._attempt, cause, remedy)

    def _class_of_ident(self) -> ElfClass:
        if len(self._view) < _IDENT_SIZE:
            raise self.fail("the ELF header is cut off", "give the whole file")
        elf_class, data, version = self._view[4], self._view[5], self._view[6]
        if elf_class not in (ElfClass.ELF32, ElfClass.ELF64):
            raise self.fail(
                f"unknown ELF class {elf_class}", "build it as ELF64, or as ELF32 with Multiboot"
            )
        if data != 1:
            raise self.fail("not a little-endian ELF file", "build it for x86-64")
        if version != 1:
            raise self.fail(f"unknown ELF version {version}", "the image is cut off or damaged")
        return ElfClass(elf_class)

    def bytes_at(self, offset: int, size: int, what: str) -> memoryview:
        # Linkers give segments without file bytes an offset, which may lie past the end.
        if size and offset + size > len(self._view):
            raise self.fail(
                f"{what} at {offset:#x}..{offset + size:#x} lies beyond the end of the file, "
                f"{len(self._view):#x}",
                "the image is cut off or damaged",
            )
        return self._view[offset : offset + size]

    def file_header(self) -> _FileHeader:
        layout = _FILE_HEADERS[self.elf_class]
        return _FileHeader._make(layout.unpack(self.bytes_at(0, layout.size, "the ELF header")))

    def program_headers(self, offset: int, count: int) -> Iterator[_ProgramHeader]:
        layout = _PROGRAM_HEADERS[self.elf_class]
        table = self.bytes_at(offset, count * layout.size, "the program header table")
        for number, fields in enumerate(layout.iter_unpack(table)):
            yield _ProgramHeader(number, *fields)


def parse_elf(view: memoryview, attempt: str) -> ElfImage:
    """Read the ELF executable in `view` (bytes, the whole file); segment data are slices of it.

    Whether segments fit the guest's memory or overlap is not looked at here. Raises `ImageError`
    for everything that is no little-endian x86 executable, or lies about its sizes; never for a
    note, because most images do not need theirs.
    """
    reader = _Reader(view, attempt)
    header = reader.file_header()
    _check_header(header, reader)
    headers = tuple(reader.program_headers(header.program_headers, header.program_header_count))
    segments = tuple(
        _load_segment(entry, reader)
        for entry in headers
        if entry.type == _PT_LOAD and (entry.memory_size or entry.file_size)
    )
    if not segments:
        raise reader.fail("it has no segment to load", "link it as an executable")
    notes, damage = _notes(headers, view)
    return ElfImage(
        reader.elf_class,
        header.entry,
        segments,
        notes,
        damage,
        header.type == _ET_DYN,
        max(entry.align for entry in headers if entry.type == _PT_LOAD),
    )


def _check_header(header: _FileHeader, reader: _Reader) -> None:
    if header.machine not in (_EM_386, _EM_X86_64):
        raise reader.fail(
            f"it is for machine {_name_of('E_MACHINE', header.machine)}, not x86-64",
            "build it for x86-64",
        )
    if header.type not in (_ET_EXEC, _ET_DYN):
        raise reader.fail(
            f"it is no executable ({_name_of('E_TYPE', header.type)})", "link it as an executable"
        )
    expected = _PROGRAM_HEADERS[reader.elf_class].size
    if header.program_header_count == 0:
        raise reader.fail("it has no program headers", "link it as an executable")
    if header.program_header_size != expected:
        raise reader.fail(
            f"its program headers are {header.program_header_size} bytes, not {expected}"
        )
    if header.program_header_count > MAX_PROGRAM_HEADERS:
        raise reader.fail(
            f"it has {header.program_header_count} program headers, more than {MAX_PROGRAM_HEADERS}"
        )


def _name_of(kind: str, number: int) -> str:
    """The gABI's name for a number; the number where it has none."""
    from elftools.elf import enums

    names: dict[str, int] = getattr(enums, f"ENUM_{kind}")
    return next((name for name, value in names.items() if value == number), str(number))


def _load_segment(header: _ProgramHeader, reader: _Reader) -> LoadSegment:
    what = f"segment {header.number}"
    if header.file_size > header.memory_size:
        raise reader.fail(
            f"{what} is larger in the file ({header.file_size:#x} bytes) than in memory "
            f"({header.memory_size:#x})"
        )
    data = reader.bytes_at(header.offset, header.file_size, what)
    end = header.physical + header.memory_size
    if end > _PHYSICAL_END:
        raise reader.fail(f"{what} at {header.physical:#x} runs past the end of the address space")
    return LoadSegment(Claim(GpaRange(header.physical, end), data, what), header.virtual)


def _notes(
    headers: tuple[_ProgramHeader, ...], view: memoryview
) -> tuple[tuple[Note, ...], tuple[str, ...]]:
    """The notes that can be read, and where the first damage of each segment of them is."""
    notes: list[Note] = []
    damage: list[str] = []
    for header in headers:
        if header.type != _PT_NOTE:
            continue
        what = f"note segment {header.number}"
        end = header.offset + header.file_size
        if header.file_size and end > len(view):
            damage.append(
                f"{what} at {header.offset:#x}..{end:#x} lies beyond the end of the file, "
                f"{len(view):#x}"
            )
        segment = read_notes(view[header.offset : end])
        if segment.damage is not None and end <= len(view):
            damage.append(f"{what} makes no sense from {segment.damage:#x} on")
        notes += segment.notes
    return tuple(notes), tuple(damage)
