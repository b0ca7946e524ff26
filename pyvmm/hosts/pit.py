# SPDX-License-Identifier: MIT
"""The 8254 interval timer (Intel 8254 data sheet): three counters, the first one interrupts.

The third one is for measuring: port 0x61 opens its gate and shows its output. Pure: the time is an
argument, in seconds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from pyvmm.errors import UsageError

HZ = 1_193_182
CHANNELS = 3
SPEAKER = 2
"""The counter behind port 0x61."""
_LOW, _HIGH, _BOTH = 1, 2, 3
_REFRESH_SECONDS = 15e-6
"""Seconds between two toggles of the refresh bit of port 0x61 (DRAM refresh of a PC)."""


# Named tuples, not dataclasses: these take eight times as long to make when a command starts.


class SavedCounter(NamedTuple):
    """State of one counter. `passed` are the seconds that it has run; None: it does not."""

    mode: int = 0
    access: int = _BOTH
    reload: int = 0x10000
    passed: float | None = None
    gate: bool = True
    bcd: bool = False
    low: int | None = None
    latched: int | None = None
    status: int | None = None
    read_high: bool = False


class SavedPit(NamedTuple):
    """State of a `Pit`. `due` is in seconds from the moment of saving; None: no tick to come."""

    counters: tuple[SavedCounter, ...]
    due: float | None
    speaker_on: bool


class _Counter:
    def __init__(self, value: SavedCounter) -> None:
        self.restore(value, 0.0)

    def restore(self, value: SavedCounter, now: float) -> None:
        self.mode = value.mode
        self.access = value.access
        self.reload = value.reload
        self.started = None if value.passed is None else now - value.passed
        self.gate = value.gate
        self._bcd = value.bcd
        self._low = value.low
        self._latched = value.latched
        self._status = value.status
        self._read_high = value.read_high

    def save(self, now: float) -> SavedCounter:
        return SavedCounter(
            self.mode,
            self.access,
            self.reload,
            None if self.started is None else now - self.started,
            self.gate,
            self._bcd,
            self._low,
            self._latched,
            self._status,
            self._read_high,
        )

    def control(self, value: int) -> None:
        mode = value >> 1 & 7
        self.access, self.mode = value >> 4 & 3, mode & 3 if mode & 2 else mode
        self._bcd = bool(value & 1)
        self.started = None
        self._low = self._latched = self._status = None
        self._read_high = False

    def latch(self, now: float) -> None:
        if self._latched is None:
            self._latched = self.count(now)

    def latch_status(self, now: float) -> None:
        if self._status is None:
            self._status = self.out(now) << 7 | self.access << 4 | self.mode << 1 | self._bcd

    def write(self, value: int, now: float) -> None:
        if self.access == _BOTH and self._low is None:
            self._low = value
            return
        if self.access == _BOTH:
            value, self._low = (self._low or 0) | value << 8, None
        elif self.access == _HIGH:
            value <<= 8
        self.reload = value or 0x10000
        self.started = now

    def set_gate(self, gate: bool, now: float) -> None:
        """A rising edge starts counting anew, but where the gate only lets count (modes 0 and 4).

        Those go on counting while it is low, as KVM's and QEMU's do.
        """
        if gate and not self.gate and self.mode not in (0, 4) and self.started is not None:
            self.started = now
        self.gate = gate

    @property
    def periodic(self) -> bool:
        return self.mode in (2, 3)

    def _passed(self, now: float) -> int:
        return 0 if self.started is None else int((now - self.started) * HZ)

    def count(self, now: float) -> int:
        passed = self._passed(now)
        if self.periodic:
            step = 2 if self.mode == 3 else 1
            return (self.reload - passed * step % self.reload) & 0xFFFF
        return (self.reload - passed) & 0xFFFF

    def out(self, now: float) -> bool:
        """The output pin."""
        if self.started is None:
            return self.mode != 0
        passed = self._passed(now)
        match self.mode:
            case 0:
                return passed >= self.reload
            case 1:
                return passed < self.reload
            case 2:
                return passed % self.reload != self.reload - 1
            case 3:
                return passed % self.reload < (self.reload + 1) // 2
            case _:
                return passed != self.reload

    def read(self, now: float) -> int:
        if self._status is not None:
            status, self._status = self._status, None
            return status
        value = self.count(now) if self._latched is None else self._latched
        if self.access == _LOW:
            self._latched = None
            return value & 0xFF
        if self.access == _HIGH:
            self._latched = None
            return value >> 8
        high, self._read_high = self._read_high, not self._read_high
        if high:
            self._latched = None
        return value >> 8 if high else value & 0xFF


_NEW = SavedPit(
    tuple(SavedCounter(gate=number != SPEAKER) for number in range(CHANNELS)), None, False
)


def _can_be(value: SavedCounter) -> bool:
    return (
        value.mode in range(6)
        and value.access in (_LOW, _HIGH, _BOTH)
        and 0 < value.reload <= 0x10000
        and (value.passed is None or math.isfinite(value.passed))
        and all(byte is None or byte in range(0x100) for byte in (value.low, value.status))
        and (value.latched is None or value.latched in range(0x10000))
    )


class Pit:
    """Ports at offsets 0 to 3, and port 0x61; `expire` tells when counter 0 raises its line."""

    def __init__(self) -> None:
        self._counters = tuple(_Counter(value) for value in _NEW.counters)
        self._due: float | None = None
        self._speaker_on = False

    def reset(self) -> None:
        """Everything as it was made: no counter runs."""
        self.restore(_NEW, 0.0)

    def save(self, now: float) -> SavedPit:
        """Everything, with times as they are from `now` on."""
        return SavedPit(
            tuple(counter.save(now) for counter in self._counters),
            None if self._due is None else self._due - now,
            self._speaker_on,
        )

    def restore(self, value: SavedPit, now: float) -> None:
        """Be as the timer that `value` was saved from, and go on from there.

        Raises `UsageError` for a state that no timer can be in.
        """
        if len(value.counters) != CHANNELS or not all(map(_can_be, value.counters)):
            raise UsageError("restore a timer", "no 8254 is in such a state", "save it again")
        for counter, saved in zip(self._counters, value.counters, strict=True):
            counter.restore(saved, now)
        self._due = None if value.due is None else now + value.due
        self._speaker_on = value.speaker_on

    @property
    def due(self) -> float | None:
        """Time at which counter 0 raises its line next; None: it does not."""
        return self._due

    def _period(self) -> float:
        return self._counters[0].reload / HZ

    def write(self, offset: int, value: int, now: float) -> None:
        """A counter's value, or a control word."""
        if offset == 3:
            self._control(value, now)
            return
        counter = self._counters[offset]
        counter.write(value, now)
        if offset == 0 and counter.started == now:
            self._due = now + self._period()

    def _control(self, value: int, now: float) -> None:
        number, access = value >> 6, value >> 4 & 3
        if number == 3:  # read back
            for index, counter in enumerate(self._counters):
                if value >> index + 1 & 1:
                    if not value & 0x20:
                        counter.latch(now)
                    if not value & 0x10:
                        counter.latch_status(now)
        elif access == 0:
            self._counters[number].latch(now)
        else:
            self._counters[number].control(value)
            if number == 0:
                self._due = None

    def read(self, offset: int, now: float) -> int:
        """A counter's value; the control word reads as 0."""
        return 0 if offset == 3 else self._counters[offset].read(now)

    def write_port_b(self, value: int, now: float) -> None:
        """Port 0x61: bit 0 is counter 2's gate, bit 1 lets the speaker have its output."""
        self._counters[SPEAKER].set_gate(bool(value & 1), now)
        self._speaker_on = bool(value & 2)

    def read_port_b(self, now: float) -> int:
        """Port 0x61: what was written, the memory refresh in bit 4, counter 2's output in bit 5."""
        speaker = self._counters[SPEAKER]
        refresh = int(now / _REFRESH_SECONDS) & 1
        return speaker.gate | self._speaker_on << 1 | refresh << 4 | speaker.out(now) << 5

    def expire(self, now: float) -> bool:
        """Take a due tick, and tell whether it raised the line; ticks not taken come later."""
        if self._due is None or now < self._due:
            return False
        if self._counters[0].periodic:
            # As KVM's, which makes up for ticks that nobody could take, one at a time.
            self._due += self._period()
        else:
            self._due = None
        return True
