# SPDX-License-Identifier: MIT
"""The 8254 interval timer (Intel 8254 data sheet): three counters, the first one interrupts.

Pure: the time is an argument, in seconds.
"""

from __future__ import annotations

HZ = 1_193_182
_LOW, _HIGH, _BOTH = 1, 2, 3


class _Counter:
    def __init__(self) -> None:
        self.mode = 0
        self.access = _BOTH
        self.reload = 0x10000
        self.started: float | None = None
        self._low: int | None = None
        self._latched: int | None = None
        self._read_high = False

    def control(self, access: int, mode: int) -> None:
        self.access, self.mode = access, mode & 3 if mode & 2 else mode
        self.started = None
        self._low = self._latched = None
        self._read_high = False

    def latch(self, now: float) -> None:
        if self._latched is None:
            self._latched = self.count(now)

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

    @property
    def periodic(self) -> bool:
        return self.mode in (2, 3)

    def count(self, now: float) -> int:
        if self.started is None:
            return self.reload & 0xFFFF
        passed = int((now - self.started) * HZ)
        if self.periodic:
            step = 2 if self.mode == 3 else 1
            return (self.reload - passed * step % self.reload) & 0xFFFF
        return (self.reload - passed) & 0xFFFF

    def read(self, now: float) -> int:
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


class Pit:
    """Ports at offsets 0 to 3; `expire` tells when counter 0 raises its line."""

    def __init__(self) -> None:
        self._counters = (_Counter(), _Counter(), _Counter())
        self._due: float | None = None

    @property
    def due(self) -> float | None:
        """When counter 0 raises its line next; None: it does not."""
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
                if value >> index + 1 & 1 and not value & 0x20:
                    counter.latch(now)
        elif access == 0:
            self._counters[number].latch(now)
        else:
            self._counters[number].control(access, value >> 1 & 7)
            if number == 0:
                self._due = None

    def read(self, offset: int, now: float) -> int:
        """A counter's value; the control word reads as 0."""
        return 0 if offset == 3 else self._counters[offset].read(now)

    def expire(self, now: float) -> bool:
        """Whether the line has been raised; a tick that nobody asked for in time comes later."""
        if self._due is None or now < self._due:
            return False
        if self._counters[0].periodic:
            # As KVM's, which makes up for ticks that nobody could take, one at a time.
            self._due += self._period()
        else:
            self._due = None
        return True
