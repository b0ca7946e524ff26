# SPDX-License-Identifier: MIT
"""Timers that a guest reads: the 8254 where the host has none, and the ACPI PM timer.

Time is in seconds of any origin, and never goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pyvmm.hosts.pit import Pit

PM_TIMER_HZ: Final = 3_579_545
_PM_TIMER_BITS: Final = 24


class PitPorts:
    """The 8254's four ports; a machine with interrupt controllers has one in its host instead."""

    def __init__(self, pit: Pit, now: Callable[[], float]) -> None:
        self._pit = pit
        self._now = now

    def read(self, offset: int, size: int) -> int:
        """A counter's next byte."""
        del size
        return self._pit.read(offset & 3, self._now())

    def write(self, offset: int, size: int, value: int) -> None:
        """A counter's next byte, or a control word."""
        del size
        self._pit.write(offset & 3, value & 0xFF, self._now())


class PortB:
    """Port 0x61: the gate and the output of the 8254's third counter (IBM PC AT, "port B")."""

    def __init__(self, pit: Pit, now: Callable[[], float]) -> None:
        self._pit = pit
        self._now = now

    def read(self, offset: int, size: int) -> int:
        """Gate, speaker, refresh and output."""
        del offset, size
        return self._pit.read_port_b(self._now())

    def write(self, offset: int, size: int, value: int) -> None:
        """Gate and speaker."""
        del offset, size
        self._pit.write_port_b(value & 0xFF, self._now())


class PmTimer:
    """The power management timer (ACPI 6.5, 4.8.3.3): a 24-bit counter in a 32-bit port."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def read(self, offset: int, size: int) -> int:
        """The counter, or a part of it."""
        count = int(self._now() * PM_TIMER_HZ) & (1 << _PM_TIMER_BITS) - 1
        return count >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Nothing: it is read-only."""
