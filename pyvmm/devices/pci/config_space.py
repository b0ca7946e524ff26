# SPDX-License-Identifier: MIT
"""Configuration space of a PCI function: a type 0 header (PCI 3.0, 6.1 to 6.7). Pure.

256 bytes, each with a mask of what a driver can write: everything else stays as it is. Bits of the
status register that a 1 clears are never set, so nothing of it can be written. Behind the 256
bytes, where only ECAM reaches, all reads as 0: there are no extended capabilities.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from pyvmm.devices.pci.bars import Bar, BarKind, check_bars
from pyvmm.devices.pci.capabilities import HEADER, Capability
from pyvmm.errors import InternalError, UsageError

if TYPE_CHECKING:
    from pyvmm.devices.pci.saved import SavedConfigSpace

SIZE: Final = 256
"""Bytes of a configuration space."""
COMMAND: Final = 0x04
STATUS: Final = 0x06
INTERRUPT_LINE: Final = 0x3C
_CACHE_LINE: Final = 0x0C
_SUBSYSTEM: Final = 0x2C
_CAPABILITIES: Final = 0x34
_INTERRUPT_PIN: Final = 0x3D
_FIRST_CAPABILITY: Final = 0x40
_PIN_A: Final = 1
_HAS_CAPABILITIES: Final = 1 << 4
_INTERRUPT: Final = 1 << 3


class Command(enum.IntFlag):
    """Bits of the command register that mean something here."""

    IO = 1 << 0
    MEMORY = 1 << 1
    BUS_MASTER = 1 << 2
    NO_INTX = 1 << 10


class PciIdentity(NamedTuple):
    """Numbers by which a driver knows a function; `class_code` has three bytes, the base first."""

    vendor: int
    device: int
    class_code: int
    revision: int
    subsystem_vendor: int
    subsystem: int


def _nothing() -> None:
    """Do nothing."""


class ConfigSpace:
    """Configuration space of one function. The guard is its owner's.

    `interrupt`: the function has INTA. `on_change` is called when a BAR is decoded otherwise than
    before, or the function may do otherwise (bus mastering, INTx).
    """

    def __init__(
        self,
        identity: PciIdentity,
        bars: tuple[Bar, ...] = (),
        capabilities: Sequence[Capability] = (),
        *,
        interrupt: bool = False,
    ) -> None:
        check_bars(bars)
        self.identity = identity
        self.bars = bars
        self.has_interrupt = interrupt
        self.on_change: Callable[[], None] = _nothing
        self._first = bytearray(SIZE)
        self._writable = bytearray(SIZE)
        self._places: list[tuple[int, Capability]] = []
        self._make_header()
        for bar in bars:
            self._put(bar.register, bar.kind.value.to_bytes(bar.length, "little"))
            self._allow(bar.register, bar.writable.to_bytes(bar.length, "little"))
        self._link(capabilities)
        self._bytes = bytearray(self._first)

    def _make_header(self) -> None:
        one = self.identity
        self._put(0, struct.pack("<HH", one.vendor, one.device))
        self._put(0x08, (one.class_code << 8 | one.revision).to_bytes(4, "little"))
        self._put(_SUBSYSTEM, struct.pack("<HH", one.subsystem_vendor, one.subsystem))
        command = 0
        if self.bars:
            command |= Command.BUS_MASTER
        for bar in self.bars:
            command |= Command.IO if bar.kind is BarKind.IO else Command.MEMORY
        self._allow(_CACHE_LINE, b"\xff")
        if self.has_interrupt:
            command |= Command.NO_INTX
            self._put(_INTERRUPT_PIN, bytes((_PIN_A,)))
            self._allow(INTERRUPT_LINE, b"\xff")
        self._allow(COMMAND, command.to_bytes(2, "little"))

    def _link(self, capabilities: Sequence[Capability]) -> None:
        pointer, at = _CAPABILITIES, _FIRST_CAPABILITY
        for one in capabilities:
            end = at + HEADER + len(one.body)
            if end > SIZE or len(one.body) != len(one.writable):
                raise InternalError(
                    "make a PCI configuration space",
                    f"the capability at {at:#x} does not end in it, or has no mask of its length",
                )
            self._put(pointer, bytes((at,)))
            self._put(at, bytes((one.number, 0)) + one.body)
            self._allow(at + HEADER, one.writable)
            self._places.append((at + HEADER, one))
            pointer, at = at + 1, -(-end // 4) * 4
        if capabilities:
            self._put(STATUS, bytes((_HAS_CAPABILITIES,)))

    def _put(self, register: int, data: bytes) -> None:
        self._first[register : register + len(data)] = data

    def _allow(self, register: int, writable: bytes) -> None:
        self._writable[register : register + len(writable)] = writable

    def place(self, number: int, address: int, *, interrupt_line: int | None = None) -> None:
        """Give a BAR its address, as firmware would, and again at each reset; nothing is decoded.

        `interrupt_line` is what firmware writes for drivers without ACPI.
        """
        (bar,) = [bar for bar in self.bars if bar.number == number]
        value = address & bar.writable | bar.kind.value
        self._put(bar.register, value.to_bytes(bar.length, "little"))
        if interrupt_line is not None:
            self._put(INTERRUPT_LINE, bytes((interrupt_line,)))
        self._bytes = bytearray(self._first)

    # -- the guest's side --

    def read(self, register: int, size: int) -> int:
        """`size` bytes from `register` on, as a number; 0 behind the end."""
        for start, capability in self._places:
            if start - HEADER <= register < start + len(capability.body):
                body = self._bytes[start : start + len(capability.body)]
                capability.before_read(body, register - start, size)
                self._bytes[start : start + len(body)] = body
        return int.from_bytes(self._bytes[register : register + size], "little")

    def write(self, register: int, size: int, value: int) -> None:
        """Take what can be written of `value`."""
        before = self._decoding()
        size = min(size, SIZE - register)
        for at in range(register, register + size):
            mask = self._writable[at]
            given = value >> 8 * (at - register) & mask
            self._bytes[at] = self._bytes[at] & ~mask | given
        for start, capability in self._places:
            if start - HEADER < register + size and register < start + len(capability.body):
                body = self._bytes[start : start + len(capability.body)]
                capability.written(body, register - start, size)
                self._bytes[start : start + len(body)] = body
        if self._decoding() != before:
            self.on_change()

    def _decoding(self) -> bytes:
        return bytes(self._bytes[COMMAND : COMMAND + 2] + self._bytes[0x10:0x28])

    # -- the machine's side --

    @property
    def command(self) -> Command:
        """Bits of the command register."""
        return Command(int.from_bytes(self._bytes[COMMAND : COMMAND + 2], "little"))

    @property
    def bus_master(self) -> bool:
        """True if the function may reach memory, and send messages."""
        return Command.BUS_MASTER in self.command

    @property
    def intx_allowed(self) -> bool:
        """True if the driver has not turned the function's line off."""
        return Command.NO_INTX not in self.command

    @property
    def interrupt_line(self) -> int:
        """Value that firmware or the guest has left about its line."""
        return self._bytes[INTERRUPT_LINE]

    def address(self, bar: Bar) -> int | None:
        """The address in a BAR, decoded or not; None where none can be."""
        at = bar.register
        return bar.decoded(int.from_bytes(self._bytes[at : at + bar.length], "little"))

    def placed(self) -> tuple[tuple[Bar, int], ...]:
        """The BARs that are decoded now, with their addresses (ports or GPAs)."""
        command = self.command
        found = []
        for bar in self.bars:
            address = self.address(bar)
            wanted = Command.IO if bar.kind is BarKind.IO else Command.MEMORY
            if wanted in command and address is not None:
                found.append((bar, address))
        return tuple(found)

    def show_interrupt(self, up: bool) -> None:
        """Let the status register tell of a reason for INTx, allowed or not (PCI 3.0, 6.2.3)."""
        self._bytes[STATUS] = self._bytes[STATUS] & ~_INTERRUPT | (_INTERRUPT if up else 0)

    def reset(self) -> None:
        """Be as firmware has left it."""
        self._bytes = bytearray(self._first)
        self.on_change()

    def save(self) -> SavedConfigSpace:
        """All of its bytes."""
        from pyvmm.devices.pci.saved import SavedConfigSpace

        return SavedConfigSpace(bytes(self._bytes))

    def restore(self, value: SavedConfigSpace) -> None:
        """Take over what a driver can write of it; raises `UsageError` for another function's."""
        fixed = bytes(mask ^ 0xFF for mask in self._writable)
        for at, (mask, saved, ours) in enumerate(
            zip(fixed, value.contents, self._first, strict=True)
        ):
            if (saved ^ ours) & mask and at != STATUS:
                raise UsageError(
                    "restore a PCI function",
                    f"its register {at:#x} differs from that of the one that was saved",
                    "make the machine with the same devices",
                )
        self._bytes = bytearray(value.contents)
        self._bytes[STATUS] = self._first[STATUS]
        self.on_change()
