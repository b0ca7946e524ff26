# SPDX-License-Identifier: MIT
"""Lines of source code, from an ELF file's DWARF: file and number of an address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

MOST_BYTES = 4 << 20
"""Debugging information that is read, all of its sections as they are without compression.

That of a guest of ours has 0.1 MiB, a Linux kernel's 300.
"""
MOST_LINE_BYTES = 512 << 10
"""Of it the programs that give lines: each byte may be a row, of some 500 bytes in memory."""
MOST_ROWS = 1 << 19
MOST_SECTIONS = 1 << 12
_DEBUGGING = (".debug_", ".gnu_debug", ".eh_frame")


def line_finder(data: bytes) -> Callable[[int], str]:
    """Function that finds "file:number" of a linear address; "" where the file does not say.

    It reads at the first call, and never raises: debugging information that makes no sense, or
    that is long (`MOST_BYTES`), tells nothing.
    """
    rows: list[tuple[int, int, str]] | None = None

    def find(address: int) -> str:
        nonlocal rows
        if rows is None:
            try:
                rows = list(_rows(data))
            except Exception:  # noqa: BLE001 - pyelftools believes what it reads, and raises anything
                rows = []
        return next((line for start, end, line in rows if start <= address < end), "")

    return find


def _rows(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Start and end (exclusive) of the code of each line, and the line."""
    from elftools.elf.elffile import ELFFile

    file = ELFFile(BytesIO(data))
    if file.num_sections() > MOST_SECTIONS:
        return
    sizes = {section.name: 0 for section in file.iter_sections()}
    for section in file.iter_sections():
        sizes[section.name] += section.data_size
    if any(name.startswith(".zdebug") for name in sizes):
        return  # An older form of compression, which says no size beforehand.
    if not {".debug_info", ".debug_line"} <= sizes.keys():
        return
    total = sum(size for name, size in sizes.items() if name.startswith(_DEBUGGING))
    if total > MOST_BYTES or sizes[".debug_line"] > MOST_LINE_BYTES:
        return
    dwarf = file.get_dwarf_info(relocate_dwarf_sections=False)
    left = MOST_ROWS
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is not None:
            # Counted are those that give no row, too: many units may have one program.
            left -= len(program.get_entries()) + 1
            if left < 0:
                return
            yield from _rows_of(program)


def _rows_of(program: Any) -> Iterator[tuple[int, int, str]]:
    before = None
    for entry in program.get_entries():
        state = entry.state
        if state is None:
            continue
        if before is not None and not before.end_sequence and before.address < state.address:
            yield before.address, state.address, f"{_file(program, before.file)}:{before.line}"
        before = state


def _file(program: Any, number: int) -> str:
    """Path of a file as it was compiled. Before DWARF 5 the first is number 1."""
    header = program.header
    files = header["file_entry"]
    entry = files[number if header["version"] >= 5 else number - 1]
    folders = header["include_directory"]
    folder = folders[entry.dir_index] if header["version"] >= 5 else b""
    if header["version"] < 5 and entry.dir_index:
        folder = folders[entry.dir_index - 1]
    name: str = entry.name.decode("utf-8", "backslashreplace")
    # The first folder is where the compiler ran: what is in it is named without.
    if not folder or name.startswith("/") or (header["version"] >= 5 and not entry.dir_index):
        return name
    return f"{folder.decode('utf-8', 'backslashreplace')}/{name}"
