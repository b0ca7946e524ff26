# SPDX-License-Identifier: MIT
"""pc-testdev, and the timers that a guest reads."""

from __future__ import annotations

import pytest

from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.pc_testdev import (
    LINES,
    WINDOW_SIZE,
    BankByte,
    InterruptLines,
    PortBank,
    Window,
)
from pyvmm.devices.timers import PM_TIMER_HZ, PitPorts, PmTimer, PortB
from pyvmm.hosts.pit import HZ, Pit
from pyvmm.memory.layout import TEST_WINDOW_GPA


def banks() -> Bus:
    value = bytearray(4)
    bus = Bus("port", ports.PORT_SPACE_SIZE)
    bus.add(ports.TEST_BANK, ports.TEST_LENGTH, PortBank(value), "bank", width=4)
    for index in range(4):
        bus.add(ports.TEST_BYTE_BANK + index, 1, BankByte(value, index), "byte")
    return bus


def test_the_two_banks_hold_the_same_four_bytes() -> None:
    bus = banks()
    assert bus.read(ports.TEST_BANK, 4) == 0
    bus.write(ports.TEST_BANK, 4, 0x44332211)
    bus.write(ports.TEST_BANK + 1, 1, 0xAA)
    bus.write(ports.TEST_BANK + 2, 2, 0xCCBB)
    assert bus.read(ports.TEST_BANK, 4) == 0xCCBBAA11
    assert bus.read(ports.TEST_BYTE_BANK, 4) == 0xCCBBAA11
    bus.write(ports.TEST_BYTE_BANK, 2, 0x0201)
    assert bus.read(ports.TEST_BANK, 2) == 0x0201
    # As strings of single bytes, which is how emulators are tested.
    bus.handle_out(ports.TEST_BANK, 1, 3, b"abc")
    assert bus.handle_in(ports.TEST_BANK, 1, 2) == b"cc"


def test_a_port_for_each_line() -> None:
    set_: list[tuple[int, bool]] = []
    bus = Bus("port", ports.PORT_SPACE_SIZE)
    lines = InterruptLines(lambda gsi, level: set_.append((gsi, level)))
    bus.add(ports.TEST_LINES, LINES, lines, "lines")
    for line, value in [(0, 1), (14, 0x80), (14, 0), (23, 1)]:
        bus.write(ports.TEST_LINES + line, 1, value)
    bus.write(ports.TEST_LINES + 4, 2, 0x0100)  # Two lines in one word.
    bus.write(ports.TEST_LINES + LINES, 1, 1)
    assert set_ == [(0, True), (14, True), (14, False), (23, True), (4, False), (5, True)]
    assert bus.read(ports.TEST_LINES + 3, 1) == 0
    InterruptLines(None).write(3, 1, 1)  # Nobody to interrupt.


def test_the_window_holds_what_is_written_in_whatever_size() -> None:
    bus = Bus("MMIO", 1 << 64)
    bus.add(TEST_WINDOW_GPA, WINDOW_SIZE, Window(), "window", width=8)
    end = TEST_WINDOW_GPA + WINDOW_SIZE
    assert bus.read(TEST_WINDOW_GPA, 8) == 0
    bus.write(TEST_WINDOW_GPA + 3, 8, 0x0807060504030201)
    assert bus.read(TEST_WINDOW_GPA + 4, 2) == 0x0302
    bus.write(end - 4, 8, 0x1122334455667788)
    assert bus.read(end - 4, 4) == 0x55667788
    assert bus.read(end, 4) == 0xFFFF_FFFF


class Clock:
    """A time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_pm_timer_counts_in_24_bits() -> None:
    clock = Clock()
    timer = PmTimer(clock)
    clock.now = 0.0
    assert timer.read(0, 4) == 0
    clock.now = 1.0
    assert timer.read(0, 4) == PM_TIMER_HZ
    assert timer.read(1, 1) == PM_TIMER_HZ >> 8 & 0xFF
    clock.now = (1 << 24) / PM_TIMER_HZ + 1
    assert timer.read(0, 4) in (PM_TIMER_HZ, PM_TIMER_HZ - 1)
    timer.write(0, 4, 0)
    assert timer.read(0, 4)


def third_counter(mode: int, count: int) -> tuple[Clock, PitPorts, PortB]:
    """The third counter programmed by low and high byte, its gate open."""
    clock, pit = Clock(), Pit()
    ports_, port_b = PitPorts(pit, clock), PortB(pit, clock)
    port_b.write(0, 1, 1)
    ports_.write(3, 1, 0xB0 | mode << 1)
    ports_.write(2, 1, count & 0xFF)
    ports_.write(2, 1, count >> 8)
    return clock, ports_, port_b


OUT = 0x20


def test_port_b_shows_the_end_of_a_one_shot_count() -> None:
    # This is how kernels find out how fast their processor is.
    clock, counters, port_b = third_counter(0, 1000)
    assert not port_b.read(0, 1) & OUT
    clock.now += 999.5 / HZ
    assert not port_b.read(0, 1) & OUT
    counters.write(3, 1, 0x80)
    assert counters.read(2, 1) | counters.read(2, 1) << 8 == 1
    clock.now += 1 / HZ
    assert port_b.read(0, 1) & OUT
    assert port_b.read(0, 1) & 3 == 1


def test_the_gate_starts_a_count_again() -> None:
    clock, _, port_b = third_counter(1, 100)
    port_b.write(0, 1, 0)
    port_b.write(0, 1, 1)
    assert port_b.read(0, 1) & (OUT | 1) == OUT | 1
    clock.now += 100.5 / HZ
    assert not port_b.read(0, 1) & OUT
    port_b.write(0, 1, 0)
    assert not port_b.read(0, 1) & OUT
    port_b.write(0, 1, 3)
    assert port_b.read(0, 1) & (OUT | 3) == OUT | 3


@pytest.mark.parametrize(
    ("mode", "passed", "out"),
    [(2, 0, 1), (2, 98.5, 1), (2, 99.5, 0), (2, 100.5, 1), (3, 10, 1), (3, 60, 0), (3, 110, 1),
     (4, 10, 1), (4, 100.5, 0), (4, 101.5, 1)],
)  # fmt: skip
def test_the_output_in_each_mode(mode: int, passed: float, out: int) -> None:
    clock, counters, port_b = third_counter(mode, 100)
    clock.now += passed / HZ
    assert bool(port_b.read(0, 1) & OUT) == bool(out)
    # The read-back command's status: output, access by low and high byte, mode.
    counters.write(3, 1, 0xE8)
    assert counters.read(2, 1) == out << 7 | 0x30 | mode << 1


def test_the_refresh_bit_toggles() -> None:
    clock, _, port_b = third_counter(0, 1000)
    seen = set()
    for _ in range(10):
        seen.add(port_b.read(0, 1) & 0x10)
        clock.now += 15e-6
    assert seen == {0, 0x10}
