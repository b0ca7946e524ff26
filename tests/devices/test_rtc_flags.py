# SPDX-License-Identifier: MIT
"""The clock's alarm, periodic and update events, polled and as interrupts."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.cmos import Cmos, CmosByte
from pyvmm.devices.rtc_flags import AlarmTime
from pyvmm.memory.layout import MIB

WHEN = datetime.datetime(2024, 2, 28, 23, 59, 58, 500_000, tzinfo=datetime.UTC)
UPDATE, ALARM, PERIODIC, INTERRUPT = 0x10, 0x20, 0x40, 0x80
HOURS_24 = 0x02


class Clock:
    """A CMOS with a time that goes on when it is told to, and what its line did."""

    def __init__(self, *, wired: bool = True) -> None:
        self.now = WHEN
        self.line: list[bool] = []
        self.changes = 0
        self.cmos = Cmos(lambda: self.now, 64 * MIB, self.line.append if wired else None)
        self.cmos.on_change = self._changed

    def _changed(self) -> None:
        self.changes += 1

    def go_on(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)

    def put(self, index: int, value: int) -> None:
        self.cmos.write(0, 1, index)
        self.cmos.write(1, 1, value)

    def get(self, index: int) -> int:
        self.cmos.write(0, 1, index)
        return self.cmos.read(1, 1)

    def flags(self) -> int:
        return self.get(CmosByte.REGISTER_C)

    def alarm_at(self, hours: int, minutes: int, seconds: int) -> None:
        self.put(CmosByte.ALARM_HOURS, hours)
        self.put(CmosByte.ALARM_MINUTES, minutes)
        self.put(CmosByte.ALARM_SECONDS, seconds)


def test_flags_are_there_for_who_polls_and_reading_clears_them() -> None:
    clock = Clock(wired=False)
    clock.alarm_at(0x23, 0x59, 0x59)
    clock.flags()
    assert clock.flags() == 0
    clock.go_on(0.25)
    assert clock.flags() == PERIODIC
    clock.go_on(0.5)
    assert clock.flags() == PERIODIC | UPDATE | ALARM
    assert clock.flags() == 0
    clock.go_on(1)
    assert clock.flags() == PERIODIC | UPDATE
    clock.go_on(86400)
    assert clock.flags() == PERIODIC | UPDATE | ALARM


def test_the_alarm_interrupts_once_until_it_is_read() -> None:
    clock = Clock()
    clock.alarm_at(0x00, 0x00, 0x02)
    clock.put(CmosByte.REGISTER_B, HOURS_24 | ALARM)
    clock.flags()
    assert clock.cmos.poll() == pytest.approx(3.5)
    clock.go_on(3.4)
    assert clock.cmos.poll() == pytest.approx(0.1)
    assert clock.line == []
    clock.go_on(0.2)
    assert clock.cmos.poll() is None
    assert clock.line == [True]
    clock.go_on(86400)
    assert clock.cmos.poll() is None
    assert clock.line == [True]
    assert clock.flags() & (INTERRUPT | ALARM) == INTERRUPT | ALARM
    assert clock.line == [True, False]
    assert clock.cmos.poll() == pytest.approx(86400 - 0.1)


@pytest.mark.parametrize(
    ("rate", "hz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (10, 64), (15, 2)]
)
def test_the_periodic_interrupt_has_its_rate(rate: int, hz: int) -> None:
    clock = Clock()
    clock.put(CmosByte.REGISTER_A, 0x20 | rate)
    clock.put(CmosByte.REGISTER_B, HOURS_24 | PERIODIC)
    clock.flags()
    count = 0
    for _ in range(8):
        due = clock.cmos.poll()
        assert due is not None
        assert due <= 1.01 / hz
        clock.go_on(due)
        assert clock.cmos.poll() is None
        assert clock.flags() & PERIODIC
        count += 1
    assert (clock.now - WHEN).total_seconds() == pytest.approx(count / hz, rel=0.2)
    assert clock.line == [True, False] * count


@pytest.mark.parametrize(
    ("a", "b"), [(0x20, HOURS_24 | PERIODIC), (0x66, 0xF2), (0x26, 0x92), (0x26, HOURS_24)]
)
def test_what_is_off_or_stands_still_does_not_interrupt(a: int, b: int) -> None:
    # No rate; dividers held; updates while SET; nothing enabled.
    clock = Clock()
    clock.flags()
    clock.put(CmosByte.REGISTER_A, a)
    clock.put(CmosByte.REGISTER_B, b)
    assert clock.cmos.poll() is None
    clock.go_on(100)
    clock.cmos.poll()
    assert clock.line == []


def test_enabling_what_has_happened_interrupts_at_once() -> None:
    clock = Clock()
    clock.go_on(2)
    clock.put(CmosByte.REGISTER_B, HOURS_24 | UPDATE)
    assert clock.line == [True]


def test_alarms_are_written_as_the_clock_is_read() -> None:
    clock = Clock()
    for b, hours in [(HOURS_24, 0x23), (0x06, 23), (0x00, 0x91), (0x04, 0x8B)]:
        clock.put(CmosByte.REGISTER_B, b)
        minutes = 59 if b & 4 else 0x59
        clock.alarm_at(hours, minutes, minutes)
        clock.put(CmosByte.REGISTER_B, b | ALARM)
        clock.flags()
        assert clock.cmos.poll() == pytest.approx(0.5)


def test_an_alarm_that_is_no_time_never_rings_and_a_clock_that_is_set_back_is_no_event() -> None:
    clock = Clock()
    clock.alarm_at(0x7F, 0, 0)
    clock.put(CmosByte.REGISTER_B, HOURS_24 | ALARM)
    clock.flags()
    assert clock.cmos.poll() is None
    clock.go_on(-3600)
    assert clock.flags() == 0


def test_who_wires_it_is_told_of_changes() -> None:
    clock = Clock()
    before = clock.changes
    clock.put(CmosByte.REGISTER_B, HOURS_24 | ALARM)
    clock.flags()
    assert clock.changes == before + 2
    clock.put(0x40, 1)
    assert clock.changes == before + 2


_some = st.sets(st.integers(0, 23), max_size=3)


@given(_some, st.sets(st.integers(0, 59), max_size=3), st.sets(st.integers(0, 59), max_size=3))
def test_the_next_alarm_is_the_first_that_matches(
    hours: set[int], minutes: set[int], seconds: set[int]
) -> None:
    found = AlarmTime(hours, minutes, seconds).next(WHEN)
    midnight = WHEN.replace(hour=0, minute=0, second=0, microsecond=0)
    all_ = [
        midnight + datetime.timedelta(days=day, hours=h, minutes=m, seconds=s)
        for day in (0, 1)
        for h in hours
        for m in minutes
        for s in seconds
    ]
    assert found == min((time for time in all_ if time > WHEN), default=None)


def test_time_that_passes_in_a_reset_does_not_interrupt() -> None:
    clock = Clock()
    clock.put(CmosByte.REGISTER_B, HOURS_24 | PERIODIC)
    times = iter(WHEN + datetime.timedelta(seconds=step) for step in range(1, 20))
    clock.cmos._flags._now = lambda: next(times)
    clock.cmos.reset()
    assert clock.cmos.save().flags.happened == 0
    assert True not in clock.line
