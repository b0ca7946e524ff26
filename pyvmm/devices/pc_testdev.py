# SPDX-License-Identifier: MIT
"""QEMU's ``pc-testdev``, which test suites for KVM use (QEMU hw/misc/pc-testdev.c).

Ports that hold what is written, a port for each interrupt line, one that flushes a page, and a
window of memory that is no RAM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyvmm.devices.ports import TEST_LENGTH as BANK_SIZE
from pyvmm.devices.ports import TEST_LINE_COUNT, TEST_WINDOW_SIZE

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedTestDevice

WINDOW_SIZE: Final = TEST_WINDOW_SIZE
"""Bytes of `Window`."""
LINES: Final = TEST_LINE_COUNT
"""Interrupt lines, a port each."""


class PcTestDevice:
    """All of it; each part is reached by windows of its own."""

    def __init__(self, set_line: Callable[[int, bool], None] | None) -> None:
        """`set_line(gsi, level)`; None: there are no controllers."""
        self._value = bytearray(BANK_SIZE)
        self.bank = PortBank(self._value)
        self.flush = PageFlush()
        self.lines = InterruptLines(set_line)
        self.window = Window()

    def bank_byte(self, index: int) -> BankByte:
        """Registers of the byte `index` of the bank."""
        return BankByte(self._value, index)

    def reset(self) -> None:
        """Zero in the bank and in the window, and no line raised."""
        self._value[:] = bytes(BANK_SIZE)
        self.lines.set(())
        self.window.contents = b""

    def save(self) -> SavedTestDevice:
        """Bank, lines and window."""
        from pyvmm.devices.saved_values import SavedTestDevice

        return SavedTestDevice(bytes(self._value), self.lines.raised, self.window.contents)

    def restore(self, value: SavedTestDevice) -> None:
        """Take over bank, lines and window."""
        self._value[:] = value.bank
        self.lines.set(value.raised)
        self.window.contents = value.window


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
        self._raised: set[int] = set()

    @property
    def raised(self) -> tuple[int, ...]:
        """Lines that are raised, in order."""
        return tuple(sorted(self._raised))

    def set(self, raised: tuple[int, ...]) -> None:
        """Have these lines raised, and no others."""
        for line in self._raised.symmetric_difference(raised):
            self._set(line, line in raised)

    def _set(self, line: int, level: bool) -> None:
        (self._raised.add if level else self._raised.discard)(line)
        if self._set_line is not None:
            self._set_line(line, level)

    def read(self, offset: int, size: int) -> int:
        """Nothing to read: 0."""
        del offset, size
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the line."""
        del size
        if offset < LINES:
            self._set(offset, bool(value))


class Window:
    """Memory that answers as a device does: every access of the guest's is an exit."""

    def __init__(self) -> None:
        self._bytes: bytearray | None = None  # Few guests use it.

    @property
    def contents(self) -> bytes:
        """All of its bytes; none at all before the first write."""
        return bytes(self._bytes or b"")

    @contents.setter
    def contents(self, value: bytes) -> None:
        self._bytes = bytearray(value) if value else None

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
