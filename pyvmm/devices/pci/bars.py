# SPDX-License-Identifier: MIT
"""Base address registers (PCI Local Bus Specification 3.0, 6.2.5.1). Pure."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, NamedTuple

from pyvmm.devices.placement import Space
from pyvmm.devices.protocols import Registers
from pyvmm.errors import InternalError

FIRST: Final = 0x10
"""Register of BAR 0 in configuration space; each takes 4 bytes, a 64-bit one two of these."""
MOST: Final = 6
_LEAST_IO: Final = 4
_LEAST_MEMORY: Final = 16


class BarKind(enum.Enum):
    """Kind of BAR; the value is what its lowest bits read as, which no driver can change."""

    IO = 0b0001
    MEMORY_32 = 0b0000
    MEMORY_64 = 0b0100

    @property
    def space(self) -> Space:
        """Address space that it is decoded in."""
        return Space.PORT if self is BarKind.IO else Space.MMIO


class Bar(NamedTuple):
    """BAR `number` of `size` bytes, a power of two, behind which are `registers`.

    Accesses of up to `width` bytes go whole. `name` is for people.
    """

    number: int
    kind: BarKind
    size: int
    registers: Registers
    width: int
    name: str = "BAR"

    @property
    def register(self) -> int:
        """Its offset in configuration space, in bytes."""
        return FIRST + 4 * self.number

    @property
    def length(self) -> int:
        """Bytes of configuration space that it takes."""
        return 8 if self.kind is BarKind.MEMORY_64 else 4

    @property
    def writable(self) -> int:
        """Bits that a driver can write. The others of an address are 0: so it finds the size."""
        return -self.size & (1 << 8 * self.length) - 1

    def decoded(self, value: int) -> int | None:
        """The address in a register that reads `value`; None where nothing can be decoded.

        That is 0, which is what no firmware has placed, and an address whose end is the end of its
        space or lies behind: there a driver that looks for the size leaves it in between.
        """
        address = value & self.writable
        limit = self.kind.space.size if self.kind is BarKind.IO else 1 << 8 * self.length
        return address if 0 < address < limit - self.size else None


def check_bars(bars: Sequence[Bar]) -> None:
    """Raise `InternalError` for BARs that no function can have."""
    taken: set[int] = set()
    for bar in bars:
        least = _LEAST_IO if bar.kind is BarKind.IO else _LEAST_MEMORY
        numbers = set(range(bar.number, bar.number + bar.length // 4))
        is_power = bar.size >= least and not bar.size & (bar.size - 1)
        if not is_power or numbers & taken or not numbers <= set(range(MOST)):
            raise InternalError(
                f"give a PCI function BAR {bar.number} of {bar.size:#x} bytes",
                f"it has {MOST} of them, each a power of two of at least {least} bytes",
            )
        taken |= numbers
