# SPDX-License-Identifier: MIT
"""Timers that a guest reads: the 8254 where the host has none, and the ACPI PM timer.

Time is in seconds of any origin, and never goes back. Saved state is of no origin: a timer that is
restored goes on from where it was saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyvmm.hosts.pit import Pit, SavedPit

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedPmTimer

PM_TIMER_HZ: Final = 3_579_545
_PM_TIMER_BITS: Final = 24


class PitTimer:
    """An 8254 that interrupts nobody: its four ports, and port 0x61.

    A machine with interrupt controllers has one in its host instead.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._pit = Pit()
        self._now = now
        self.registers = PitPorts(self._pit, now)
        self.port_b = PortB(self._pit, now)

    def reset(self) -> None:
        """No counter runs."""
        self._pit.reset()

    def save(self) -> SavedPit:
        """The counters, with the time that each has run."""
        return self._pit.save(self._now())

    def restore(self, value: SavedPit) -> None:
        """Let the counters go on from there."""
        self._pit.restore(value, self._now())


class PitPorts:
    """The 8254's four ports."""

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
        self._origin = 0.0

    def reset(self) -> None:
        """Count from the clock's origin, as at a start."""
        self._origin = 0.0

    def save(self) -> SavedPmTimer:
        """The count."""
        from pyvmm.devices.saved_values import SavedPmTimer

        return SavedPmTimer(self._now() - self._origin)

    def restore(self, value: SavedPmTimer) -> None:
        """Go on from that count."""
        self._origin = self._now() - value.seconds

    def read(self, offset: int, size: int) -> int:
        """The counter, or a part of it."""
        count = int((self._now() - self._origin) * PM_TIMER_HZ) & (1 << _PM_TIMER_BITS) - 1
        return count >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Nothing: it is read-only."""
