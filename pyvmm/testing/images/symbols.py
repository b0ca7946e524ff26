# SPDX-License-Identifier: MIT
"""Symbols of an ELF file: from a name to its address, from an address to name, offset and line."""

from __future__ import annotations

import difflib
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pyvmm.errors import ImageError, UsageError

MAGIC = b"\x7fELF"
MOST_SYMBOLS = 1 << 20
"""More than any kernel has; bounds the work that a hostile file can cause."""
MOST_LETTERS = 1024
"""Bytes of a symbol's name: names may overlap, and each be as long as the file."""
MOST_SECTIONS = 1 << 16
MOST_SEGMENTS = 128
_SHT_SYMTAB = 2
_SHF_EXECINSTR = 4
_SHN_RESERVED = 0xFF00
_PT_LOAD = 1
_STT_NOTYPE, _STT_OBJECT, _STT_FUNC = 0, 1, 2
_STB_LOCAL = 0
_NEAR_NAMES = 3


@dataclass(frozen=True, slots=True)
class Symbol:
    """A symbol: [address, address + size) in linear addresses; `size` 0: nobody knows."""

    name: str
    address: int
    size: int
    is_code: bool
    is_global: bool


@dataclass(frozen=True, slots=True)
class CodePlace:
    """Place in code: so many bytes behind a symbol; `line` is "file:number", "" if not known."""

    name: str
    offset: int
    line: str = ""

    def __str__(self) -> str:
        offset = f"+{self.offset:#x}" if self.offset else ""
        return f"{self.name}{offset}" + (f" ({self.line})" if self.line else "")


class Symbols:
    """Symbols of one image."""

    def __init__(
        self, symbols: Sequence[Symbol], name: str, line: Callable[[int], str] = lambda _: ""
    ) -> None:
        """`name` is the file's, for messages; `line` finds "file:number" of an address, or ""."""
        self.name = name
        self._line = line
        self._by_name: dict[str, list[Symbol]] = {}
        for one in symbols:
            self._by_name.setdefault(one.name, []).append(one)
        # Of several at one address the last is shown: with a size rather than without, global.
        self._code = sorted(
            (one for one in symbols if one.is_code),
            key=lambda one: (one.address, one.size > 0, one.is_global),
        )
        self._starts = [one.address for one in self._code]

    def __len__(self) -> int:
        return sum(map(len, self._by_name.values()))

    def address(self, name: str) -> int:
        """Address of the symbol `name`; a global one wins over local ones.

        Raises `UsageError` where there is none, or several local ones.
        """
        attempt = f"find the symbol {name} in {self.name}"
        found = self._by_name.get(name)
        if not found:
            near = difflib.get_close_matches(name, self._by_name, _NEAR_NAMES)
            if near:
                raise UsageError(attempt, "there is none", f"did you mean {', '.join(near)}?")
            raise UsageError(
                attempt,
                "there is none" if self._by_name else "the image has no symbols",
                "" if self._by_name else "name its unstripped ELF file (symbols=)",
            )
        exported = {one.address for one in found if one.is_global}
        addresses = exported or {one.address for one in found}
        if len(addresses) > 1:
            listed = ", ".join(f"{one:#x}" for one in sorted(addresses))
            raise UsageError(attempt, f"there are several: {listed}", "give an address instead")
        return min(addresses)

    def place(self, address: int) -> CodePlace | None:
        """Find the function that `address` is in; None where it is in none."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        symbol = self._code[index]
        offset = address - symbol.address
        if symbol.size and offset >= symbol.size:
            return None
        return CodePlace(symbol.name, offset, self._line(address))


NO_SYMBOLS = Symbols((), "the image")


class _ElfFile:
    """As much of an ELF file as has to do with symbols; everything checked against its end."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data = data
        self._attempt = f"read the symbols of {name}"
        if data[:4] != MAGIC or len(data) < 64 or data[4] not in (1, 2) or data[5] != 1:
            raise self.fail("it is no little-endian ELF file")
        self.is_64 = data[4] == 2
        at = struct.unpack_from("<QQQ" if self.is_64 else "<III", data, 24)
        self._programs_at, self._sections_at = at[1], at[2]
        counts = struct.unpack_from("<HHHHH", data, 54 if self.is_64 else 42)
        self._program_size, self._programs, self._section_size, self._sections = counts[:4]

    def fail(self, cause: str) -> ImageError:
        return ImageError(self._attempt, cause, "the file is cut off or damaged")

    def part(self, offset: int, size: int, what: str) -> memoryview:
        if offset + size > len(self.data):
            raise self.fail(f"{what} at {offset:#x} lies beyond the end of the file")
        return memoryview(self.data)[offset : offset + size]

    def _rows(
        self, layout: str, at: int, size: int, count: int, what: str
    ) -> Iterator[Sequence[int]]:
        row = struct.Struct(layout)
        if not count:
            return
        if size < row.size:
            raise self.fail(f"{what} have {size} bytes each")
        table = self.part(at, size * count, what)
        for number in range(count):
            yield row.unpack_from(table, number * size)

    def sections(self) -> list[Sequence[int]]:
        """Type, flags, offset, size, link of each; none where the file has no table of them."""
        if not self._sections_at:
            return []
        layout = "<4xIQ8xQQI" if self.is_64 else "<4xII4xIII"
        what = "section headers"
        count = self._sections
        if not count:  # More than e_shnum holds: then the first section has the number.
            first = self._rows(layout, self._sections_at, self._section_size, 1, what)
            count = next(iter(first))[3]
        if count > MOST_SECTIONS:
            raise self.fail(f"it has {count} sections")
        return list(self._rows(layout, self._sections_at, self._section_size, count, what))

    def loads(self) -> list[tuple[int, memoryview]]:
        """Linear address and bytes of each segment that is loaded."""
        if self._programs > MOST_SEGMENTS:
            raise self.fail(f"it has {self._programs} program headers")
        layout = "<I4xQQ8xQ" if self.is_64 else "<III4xI"
        rows = self._rows(
            layout, self._programs_at, self._program_size, self._programs, "program headers"
        )
        return [
            (linear, self.part(offset, size, "a segment"))
            for kind, offset, linear, size in rows
            if kind == _PT_LOAD
        ]

    def symbols(self) -> Iterator[Symbol]:
        """Symbols of the first table: ELF allows no second one (System V gABI, chapter 4)."""
        sections = self.sections()
        for kind, _flags, offset, size, link in sections:
            if kind != _SHT_SYMTAB:
                continue
            row = struct.Struct("<IBBHQQ" if self.is_64 else "<IIIBBH")
            if size // row.size > MOST_SYMBOLS:
                raise self.fail(f"it has {size // row.size} symbols")
            if link >= len(sections):
                raise self.fail("its symbols have no names")
            table = self.part(offset, size // row.size * row.size, "the symbol table")
            _, _, names_at, names_size, _ = sections[link]
            names = bytes(self.part(names_at, names_size, "the symbols' names"))
            for values in row.iter_unpack(table):
                if self.is_64:
                    at, info, _other, section, address, length = values
                else:
                    at, address, length, info, _other, section = values
                if not 0 < section < min(_SHN_RESERVED, len(sections)) or not at:
                    continue
                if info & 0xF not in (_STT_NOTYPE, _STT_OBJECT, _STT_FUNC):
                    continue
                end = names.find(b"\0", at, at + MOST_LETTERS)
                name = names[at : end if end >= 0 else at + MOST_LETTERS].decode(
                    "utf-8", "backslashreplace"
                )
                is_code = bool(sections[section][1] & _SHF_EXECINSTR) and info & 0xF != _STT_OBJECT
                if name:
                    yield Symbol(name, address, length, is_code, info >> 4 != _STB_LOCAL)
            return


def read_symbols(data: bytes, name: str, line: Callable[[int], str] = lambda _: "") -> Symbols:
    """Read the symbol table (.symtab) of an ELF file; a stripped one has none.

    `name` is the file's, for messages; `line` as in `Symbols`. Raises `ImageError`.
    """
    return Symbols(list(_ElfFile(data, name).symbols()), name, line)


def is_same_code(image: bytes, unstripped: bytes) -> bool:
    """Tell whether two ELF files load the same bytes to the same places. Raises `ImageError`."""
    return _ElfFile(image, "the image").loads() == _ElfFile(unstripped, "its symbols").loads()


def code_of(image: bytes, address: int, size: int) -> bytes:
    """Up to `size` bytes that an ELF image loads to the linear `address`; none where it is none."""
    try:
        loads = _ElfFile(image, "the image").loads()
    except ImageError:
        return b""
    for linear, data in loads:
        if linear <= address < linear + len(data):
            return bytes(data[address - linear : address - linear + size])
    return b""
