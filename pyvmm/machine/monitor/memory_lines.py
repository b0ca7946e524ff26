# SPDX-License-Identifier: MIT
"""Memory as lines, as the commands x and xp of QEMU's monitor print it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyvmm.machine.monitor.expressions import Base, Format, LineError

Read = Callable[[int, int], bytes | None]
"""(address, size in bytes) -> that many bytes, or None where they cannot be read."""

MOST_BYTES = 1 << 16
"""Largest number of bytes that one command prints."""
_MASK = (1 << 64) - 1
_ESCAPES = {0x27: "\\'", 0x5C: "\\\\", 0x0A: "\\n", 0x0D: "\\r"}


def memory_lines(start: int, format_: Format, read: Read) -> Iterator[str]:
    """Lines of 16 bytes each, 8 where the items are single bytes; ends where `read` gives None.

    Values are unsigned up to 4 bytes, whatever the base, and characters come as many as the bytes
    of all items: both are as in QEMU. Raises `LineError` for more than `MOST_BYTES`.
    """
    left = format_.count * format_.size
    if left > MOST_BYTES:
        raise LineError(f"{left} bytes are too many for one command, which prints {MOST_BYTES}")
    line_size = 8 if format_.size == 1 else 16
    item = 1 if format_.base is Base.CHARACTER else format_.size
    address = start & _MASK
    while left:
        size = min(left, line_size)
        data = read(address, size) if address + size <= _MASK + 1 else None
        if data is None:
            yield f"{address:016x}: Cannot access memory"
            return
        items = (data[at : at + item] for at in range(0, size, item))
        shown = (_show(int.from_bytes(one, "little"), format_.base, item) for one in items)
        yield f"{address:016x}: {' '.join(shown)}"
        address = (address + size) & _MASK
        left -= size


def _show(value: int, base: Base, size: int) -> str:
    bits = 8 * size
    match base:
        case Base.HEXADECIMAL:
            return f"0x{value:0{bits // 4}x}"
        case Base.OCTAL:
            return (f"0{value:o}" if value else "0").rjust(-(-bits // 3))
        case Base.UNSIGNED | Base.SIGNED:
            if base is Base.SIGNED and bits == 64 and value >> 63:
                value -= 1 << 64
            return str(value).rjust(-(-bits * 10 // 33))
        case Base.CHARACTER:
            return f"'{character(value)}'"


def character(value: int) -> str:
    """One byte as C would write it between quotation marks."""
    if value in _ESCAPES:
        return _ESCAPES[value]
    return chr(value) if 0x20 <= value <= 0x7E else f"\\x{value:02x}"
