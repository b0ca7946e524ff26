# SPDX-License-Identifier: MIT
"""The clock's three kinds of events, and its interrupt (Motorola MC146818, registers A, B and C).

Nothing has to be called in time for a guest that polls: what has happened is worked out when it
looks. Who wires the interrupt calls `poll` when `next_due` says.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedRtcFlags

_SECOND: Final = datetime.timedelta(seconds=1)
_TIME_BASE: Final = 32768
_DIVIDER: Final = 0x70
_DIVIDER_RUNS: Final = 0x20
_RATE: Final = 0x0F
SET: Final = 1 << 7
"""Bit of register B: no updates."""
_STEPS: Final = 24 + 60 + 60
"""Hours, minutes and seconds that may have to be skipped on the way to an alarm."""


class Flag(enum.IntFlag):
    """Bits of registers B (enabled) and C (happened)."""

    UPDATE = 1 << 4
    ALARM = 1 << 5
    PERIODIC = 1 << 6
    INTERRUPT = 1 << 7
    """Of C: one that is enabled has happened."""


_KINDS: Final = Flag.UPDATE | Flag.ALARM | Flag.PERIODIC


class AlarmTime:
    """Times when the alarm rings: any of the `hours`, `minutes` and `seconds` that are given."""

    def __init__(
        self, hours: Collection[int], minutes: Collection[int], seconds: Collection[int]
    ) -> None:
        self._hours, self._minutes, self._seconds = hours, minutes, seconds

    def next(self, after: datetime.datetime) -> datetime.datetime | None:
        """The first time that is later than `after`; None: never."""
        if not (self._hours and self._minutes and self._seconds):
            return None
        time = after.replace(microsecond=0) + _SECOND
        for _ in range(2 * _STEPS):
            if time.hour not in self._hours:
                time = time.replace(minute=0, second=0) + datetime.timedelta(hours=1)
            elif time.minute not in self._minutes:
                time = time.replace(second=0) + datetime.timedelta(minutes=1)
            elif time.second not in self._seconds:
                time += _SECOND
            else:
                return time
        return None


class RtcFlags:
    """Registers A's rate, B's enables, and C. `now` is the clock's time.

    `set_line` raises and lowers the interrupt line; None: there is nobody to interrupt.
    """

    def __init__(
        self,
        now: Callable[[], datetime.datetime],
        set_line: Callable[[bool], None] | None,
    ) -> None:
        self._now = now
        self._set_line = set_line
        self._looked = now()
        self._happened = Flag(0)
        self._enabled = Flag(0)
        self._period: datetime.timedelta | None = None
        self._alarm: AlarmTime = AlarmTime((), (), ())
        self._stands = False

    def reset(self) -> None:
        """Nothing has happened; the line goes down. `configure` comes next."""
        # With the old registers its look at what has happened since could interrupt.
        self._enabled, self._period, self._stands = Flag(0), None, True
        self._put(Flag(0))
        self._looked = self._now()

    def save(self) -> SavedRtcFlags:
        """The events so far; the line is up where one of them interrupts."""
        from pyvmm.devices.saved_values import SavedRtcFlags, microseconds

        return SavedRtcFlags(microseconds(self._looked), int(self._happened))

    def restore(self, value: SavedRtcFlags, a: int, b: int, alarm: AlarmTime) -> None:
        """Take over the events, with these registers (see `configure`)."""
        from pyvmm.devices.saved_values import time_of

        self._looked = time_of(value.looked)
        self._set_registers(a, b, alarm)
        self._put(Flag(value.happened))

    def _put(self, happened: Flag) -> None:
        """Have these events happened, with the line as they say."""
        changed = (self._happened ^ happened) & Flag.INTERRUPT
        self._happened = happened
        if changed and self._set_line is not None:
            self._set_line(bool(happened & Flag.INTERRUPT))

    def configure(self, a: int, b: int, alarm: AlarmTime) -> None:
        """Go on with these registers; while B says SET there are no updates and no alarms."""
        self.poll()
        self._set_registers(a, b, alarm)
        self._interrupt()

    def _set_registers(self, a: int, b: int, alarm: AlarmTime) -> None:
        rate = a & _RATE
        if not rate or a & _DIVIDER != _DIVIDER_RUNS:
            self._period = None
        else:
            ticks = 1 << (rate + 6 if rate < 3 else rate - 1)
            self._period = ticks * _SECOND / _TIME_BASE
        self._enabled = Flag(b) & _KINDS
        self._alarm = alarm
        self._stands = bool(b & SET) or a & _DIVIDER != _DIVIDER_RUNS

    def take(self) -> int:
        """Register C, which reading clears; the line goes down."""
        self.poll()
        value = self._happened
        self._put(Flag(0))
        return int(value)

    def poll(self) -> None:
        """Note down what has happened until now, and interrupt if that is wanted."""
        now = self._now()
        last, self._looked = self._looked, now
        if now <= last:
            return  # The host's clock has been set back.
        for kind in (Flag.UPDATE, Flag.ALARM, Flag.PERIODIC):
            if not self._happened & kind:
                due = self._next(kind, last)
                if due is not None and due <= now:
                    self._happened |= kind
        self._interrupt()

    def _interrupt(self) -> None:
        if self._happened & self._enabled and not self._happened & Flag.INTERRUPT:
            self._happened |= Flag.INTERRUPT
            if self._set_line is not None:
                self._set_line(True)

    def _next(self, kind: Flag, after: datetime.datetime) -> datetime.datetime | None:
        """Compute the time of the next event of `kind` after `after`."""
        if kind is Flag.PERIODIC:
            if self._period is None:
                return None
            midnight = after.replace(hour=0, minute=0, second=0, microsecond=0)
            return midnight + ((after - midnight) // self._period + 1) * self._period
        if self._stands:
            return None
        if kind is Flag.UPDATE:
            return after.replace(microsecond=0) + _SECOND
        return self._alarm.next(after)

    def next_due(self) -> float | None:
        """Seconds until `poll` would interrupt; None: it would not unless something changes."""
        if self._set_line is None or self._happened & Flag.INTERRUPT:
            return None
        kinds = (Flag.UPDATE, Flag.ALARM, Flag.PERIODIC)
        times = [self._next(kind, self._looked) for kind in kinds if self._enabled & kind]
        due = min((time for time in times if time is not None), default=None)
        return None if due is None else max(0.0, (due - self._now()).total_seconds())
