# SPDX-License-Identifier: MIT
"""QEMU's ``pc-testdev``, which test suites for KVM use (QEMU hw/misc/pc-testdev.c).

Ports that hold what is written, a port for each interrupt line, one that flushes a page, and a
window of memory that is no RAM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

WINDOW_SIZE: Final = 0x1_0000
"""Bytes of `Window`."""
LINES: Final = 24
"""Interrupt lines, a port each."""


class PortBank:
    """Four bytes that hold what is written, in whatever sizes; `value` are those bytes."""

    def __init__(self, value: bytearray) -> None:
        self._value = value

    def read(self, offset: int, size: int) -> int:
        """Read the bytes of the bank at `offset`, modulo 4."""
        start = offset & 3
        return int.from_bytes(self._value[start : start + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Keep it; what would go beyond the fourth byte is dropped."""
        start = offset & 3
        kept = min(size, 4 - start)
        self._value[start : start + kept] = value.to_bytes(size, "little")[:kept]


class BankByte:
    """One byte of a bank, on a port of its own."""

    def __init__(self, value: bytearray, index: int) -> None:
        self._value = value
        self._index = index

    def read(self, offset: int, size: int) -> int:
        """Read this byte of the bank."""
        del offset, size
        return self._value[self._index]

    def write(self, offset: int, size: int, value: int) -> None:
        """Keep it."""
        del offset, size
        self._value[self._index] = value & 0xFF


class PageFlush:
    """Takes the address of a page whose translation the host is to forget and find again.

    QEMU unmaps and maps it; what the guest finds afterwards is the same, and here nothing needs to
    be done for that.
    """

    def read(self, offset: int, size: int) -> int:
        """Nothing to read: 0."""
        del offset, size
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Nothing that a guest could tell."""


class InterruptLines:
    """A port for each interrupt line (GSI): a write sets its level, 0 or not."""

    def __init__(self, set_line: Callable[[int, bool], None] | None) -> None:
        """`set_line(gsi, level)`; None: there are no controllers."""
        self._set_line = set_line

    def read(self, offset: int, size: int) -> int:
        """Nothing to read: 0."""
        del offset, size
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the line."""
        del size
        if self._set_line is not None and offset < LINES:
            self._set_line(offset, bool(value))


class Window:
    """Memory that answers as a device does: every access of the guest's is an exit."""

    def __init__(self) -> None:
        self._bytes: bytearray | None = None  # Few guests use it.

    def read(self, offset: int, size: int) -> int:
        """Read back the bytes that were written; 0 before any write."""
        if self._bytes is None:
            return 0
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Keep it."""
        if self._bytes is None:
            self._bytes = bytearray(WINDOW_SIZE)
        kept = max(0, min(size, WINDOW_SIZE - offset))
        self._bytes[offset : offset + kept] = value.to_bytes(size, "little")[:kept]
