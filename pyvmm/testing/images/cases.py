# SPDX-License-Identifier: MIT
"""Test cases that an image lists in its section ``.pyvmm.cases`` (guest/include/cases.h).

Pure: bytes in, values out. The section header table is ELF's (System V gABI, chapter 4); an entry's
layout is CASE_... in guest/include/protocol.h.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from dataclasses import dataclass, replace

from pyvmm.boot.elf import MAGIC, ElfClass, ElfImage, parse_elf
from pyvmm.errors import ImageError
from pyvmm.testing.results.tap_results import level_name
from pyvmm.visible import visible

SECTION = ".pyvmm.cases"

MAX_CASES = 4096
"""More than anyone boots one by one; bounds the work that a hostile image can cause."""
MAX_SECTIONS = 1 << 12
MAX_TEXT = 256
"""Bytes of a name, or of the name of a source file."""

_SECTION_TABLE = struct.Struct("<Q10xHHH")
"""e_shoff, then behind 10 bytes that are not of interest e_shentsize, e_shnum and e_shstrndx."""
_SECTION_TABLE_AT = 40
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_NOBITS = 8
_ENTRY = struct.Struct("<QQQII")
_NAME = re.compile(r"[!-~]+", re.ASCII)
_DAMAGED = "the image is cut off or damaged"


@dataclass(frozen=True, slots=True)
class GuestCase:
    """A case: `name` is unique in its image, `number` is its place in the section, from 0.

    `file` and `line` are where its source is, as the compiler was told.
    """

    name: str
    file: str
    line: int
    number: int
    own_name: str
    """Name that the guest has for it; others may have the same."""

    @property
    def option(self) -> str:
        """Value of ``case=`` that has the guest run it: its name, or its number."""
        return self.name if self.name == self.own_name else str(self.number)


@dataclass(frozen=True, slots=True)
class _Section:
    """Address, file offset and size in bytes, and whether the file has its bytes."""

    address: int
    offset: int
    size: int
    is_in_file: bool


def list_cases(content: bytes, attempt: str) -> tuple[GuestCase, ...] | None:
    """List the test cases of the ELF64 image `content`, in their order; None without the section.

    None, too, for what is no ELF file. `attempt` ("list the cases of FILE") begins the text of an
    `ImageError`, which is raised where the section, or what it points to, makes no sense.
    """
    if not content.startswith(MAGIC):
        return None
    view = memoryview(content)
    section = _find_section(view, attempt)
    if section is None:
        return None
    image = parse_elf(view, attempt)
    if image.elf_class is not ElfClass.ELF64:
        raise ImageError(attempt, "its test cases are in a 32-bit file", "build it as ELF64")
    entries = _entries(view, section, attempt)
    cases = [_case(image, entry, number, attempt) for number, entry in enumerate(entries)]
    return _told_apart(cases)


def _find_section(view: memoryview, attempt: str) -> _Section | None:
    """Find the section; None in files without it, which may be 32-bit ones."""
    if len(view) < _SECTION_TABLE_AT + _SECTION_TABLE.size or view[4] != ElfClass.ELF64:
        return None
    table = _SECTION_TABLE.unpack_from(view, _SECTION_TABLE_AT)
    offset, entry_size, count, names_index = table
    if not offset or not count:
        return None
    if entry_size != _SECTION_HEADER.size or count > MAX_SECTIONS or names_index >= count:
        raise ImageError(attempt, "its section header table makes no sense", _DAMAGED)
    if offset + count * entry_size > len(view):
        raise ImageError(attempt, "its section headers lie beyond the end of the file", _DAMAGED)
    headers = [
        _SECTION_HEADER.unpack_from(view, offset + index * entry_size) for index in range(count)
    ]
    names_offset, names_size = headers[names_index][4:6]
    names = bytes(view[names_offset : names_offset + names_size])
    wanted = SECTION.encode() + b"\0"
    for name, kind, _, address, start, size, *_ in headers:
        if names.startswith(wanted, name):
            return _Section(address, start, size, kind != _NOBITS)
    return None


def _entries(view: memoryview, section: _Section, attempt: str) -> list[tuple[int, ...]]:
    end = section.offset + section.size
    if not section.is_in_file or end > len(view):
        raise ImageError(attempt, f"its section {SECTION} is not in the file", _DAMAGED)
    if section.size % _ENTRY.size:
        cause = f"its section {SECTION} has {section.size} bytes, no multiple of {_ENTRY.size}"
        raise ImageError(attempt, cause, "build it with this version's guest/include/cases.h")
    if section.size // _ENTRY.size > MAX_CASES:
        raise ImageError(attempt, f"it has more than {MAX_CASES} test cases", "split it")
    return list(_ENTRY.iter_unpack(view[section.offset : end]))


def _case(image: ElfImage, entry: tuple[int, ...], number: int, attempt: str) -> GuestCase:
    name_at, file_at, _body, line, _reserved = entry
    name = _text(image, name_at, f"the name of case {number}", attempt)
    file = _text(image, file_at, f"the file of case {number}", attempt)
    if not _NAME.fullmatch(name):
        raise ImageError(attempt, f"the name of case {number} is no word: {name!r}")
    return GuestCase(level_name(name), visible(file), line, number, name)


def _text(image: ElfImage, address: int, what: str, attempt: str) -> str:
    """Read the zero-terminated text at a virtual address."""
    for segment in image.segments:
        data = segment.claim.data
        offset = address - segment.virtual
        if 0 <= offset < len(data):
            text, end, _ = bytes(data[offset : offset + MAX_TEXT]).partition(b"\0")
            if not end:
                raise ImageError(attempt, f"{what} has no end within {MAX_TEXT} bytes")
            return text.decode("utf-8", "backslashreplace")
    raise ImageError(
        attempt,
        f"{what} lies at {address:#x}, where the image has nothing",
        "link it at a fixed address (its cases may be relocated when it runs only)",
    )


def _told_apart(cases: list[GuestCase]) -> tuple[GuestCase, ...]:
    """Number the second and later of cases that are called alike; have them chosen by number."""
    taken = {case.name for case in cases}
    seen: Counter[str] = Counter()
    told = []
    for case in cases:
        seen[case.name] += 1
        count = seen[case.name]
        if count == 1:
            told.append(case)
            continue
        name = f"{case.name}#{count}"
        while name in taken:
            count += 1
            name = f"{case.name}#{count}"
        taken.add(name)
        told.append(replace(case, name=name))
    return tuple(told)
