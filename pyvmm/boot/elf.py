# SPDX-License-Identifier: MIT
"""ELF executables, read with pyelftools, believed after checking (System V gABI, chapters 4, 5).

pyelftools decodes the structures; this file decides which bytes it is shown and what is plausible.
Only ``elftools.elf.structs`` is imported: ``elffile`` brings all of DWARF with it and costs three
times as much (about 30 ms instead of 10), which every start of a guest would pay.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from pyvmm.boot.claims import Claim
from pyvmm.boot.elf_notes import Note, read_notes
from pyvmm.errors import ImageError
from pyvmm.memory.layout import GpaRange

MAGIC = b"\x7fELF"

MAX_PROGRAM_HEADERS = 128
"""More than any kernel has (Linux: 5); bounds the work that a hostile image can cause."""

_MACHINES = frozenset({"EM_386", "EM_X86_64"})
_IDENT_SIZE = 16
_PHYSICAL_END = 1 << 64


class ElfClass(enum.IntEnum):
    """EI_CLASS; `bits` is the word size."""

    ELF32 = 1
    ELF64 = 2

    @property
    def bits(self) -> int:
        """32 or 64."""
        return 32 if self is ElfClass.ELF32 else 64

    @property
    def header_size(self) -> int:
        """Size of the file header in bytes."""
        return 52 if self is ElfClass.ELF32 else 64

    @property
    def program_header_size(self) -> int:
        """Size of one program header in bytes."""
        return 32 if self is ElfClass.ELF32 else 56


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


class _ProgramHeader(NamedTuple):
    """The decoded fields. No dataclass: making one takes a millisecond at every start."""

    number: int
    type: str | int
    offset: int
    virtual: int
    physical: int
    file_size: int
    memory_size: int
    align: int


@cache
def _structs_of(elf_class: ElfClass) -> Any:
    """The library's declarations; making them (1.5 ms) takes longer than reading with them."""
    from elftools.elf.structs import ELFStructs

    structs = ELFStructs(little_endian=True, elfclass=elf_class.bits)
    structs.create_basic_structs()
    structs.create_advanced_structs("ET_EXEC", "EM_X86_64")
    return structs


class _Reader:
    """The border to pyelftools: from here on its answers are ints and strs, its errors ours."""

    def __init__(self, view: memoryview, attempt: str) -> None:
        self._view = view
        self._attempt = attempt
        self.elf_class = self._class_of_ident()
        from elftools.construct import ConstructError

        self._error: type[Exception] = ConstructError
        self._structs = _structs_of(self.elf_class)

    def fail(self, cause: str, remedy: str = "") -> ImageError:
        return ImageError(self._attempt, cause, remedy)

    def _class_of_ident(self) -> ElfClass:
        if len(self._view) < _IDENT_SIZE:
            raise self.fail("the ELF header is cut off")
        elf_class, data, version = self._view[4], self._view[5], self._view[6]
        if elf_class not in (ElfClass.ELF32, ElfClass.ELF64):
            raise self.fail(f"unknown ELF class {elf_class}")
        if data != 1:
            raise self.fail("not a little-endian ELF file", "build it for x86-64")
        if version != 1:
            raise self.fail(f"unknown ELF version {version}")
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

    def _parse(self, struct: Any, data: memoryview, what: str) -> Any:
        try:
            return struct.parse(bytes(data))
        except self._error as error:
            raise self.fail(f"{what} cannot be decoded: {error}") from error

    def file_header(self) -> Any:
        size = self.elf_class.header_size
        data = self.bytes_at(0, size, "the ELF header")
        return self._parse(self._structs.Elf_Ehdr, data, "the ELF header")

    def program_headers(self, offset: int, count: int) -> Iterator[_ProgramHeader]:
        size = self.elf_class.program_header_size
        table = self.bytes_at(offset, count * size, "the program header table")
        for index in range(count):
            raw = self._parse(
                self._structs.Elf_Phdr,
                table[index * size : (index + 1) * size],
                f"program header {index}",
            )
            yield _ProgramHeader(
                number=index,
                type=raw.p_type,
                offset=int(raw.p_offset),
                virtual=int(raw.p_vaddr),
                physical=int(raw.p_paddr),
                file_size=int(raw.p_filesz),
                memory_size=int(raw.p_memsz),
                align=int(raw.p_align),
            )


def parse_elf(view: memoryview, attempt: str) -> ElfImage:
    """Read the ELF executable in `view` (bytes, the whole file); segment data are slices of it.

    Whether segments fit the guest's memory or overlap is not looked at here. Raises `ImageError`
    for everything that is no little-endian x86 executable, or lies about its sizes; never for a
    note, because most images do not need theirs.
    """
    reader = _Reader(view, attempt)
    header = reader.file_header()
    _check_header(header, reader)
    headers = tuple(reader.program_headers(int(header.e_phoff), int(header.e_phnum)))
    segments = tuple(
        _load_segment(entry, reader)
        for entry in headers
        if entry.type == "PT_LOAD" and (entry.memory_size or entry.file_size)
    )
    if not segments:
        raise reader.fail("it has no segment to load", "link it as an executable")
    notes, damage = _notes(headers, view)
    return ElfImage(
        reader.elf_class,
        int(header.e_entry),
        segments,
        notes,
        damage,
        header.e_type == "ET_DYN",
        max(entry.align for entry in headers if entry.type == "PT_LOAD"),
    )


def _check_header(header: Any, reader: _Reader) -> None:
    if header.e_machine not in _MACHINES:
        raise reader.fail(
            f"it is for machine {header.e_machine}, not x86-64", "build it for x86-64"
        )
    if header.e_type not in ("ET_EXEC", "ET_DYN"):
        raise reader.fail(f"it is no executable ({header.e_type})", "link it as an executable")
    expected = reader.elf_class.program_header_size
    if header.e_phnum == 0:
        raise reader.fail("it has no program headers", "link it as an executable")
    if header.e_phentsize != expected:
        raise reader.fail(f"its program headers are {header.e_phentsize} bytes, not {expected}")
    if header.e_phnum > MAX_PROGRAM_HEADERS:
        raise reader.fail(
            f"it has {header.e_phnum} program headers, more than {MAX_PROGRAM_HEADERS}"
        )


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
        if header.type != "PT_NOTE":
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
