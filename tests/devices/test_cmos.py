# SPDX-License-Identifier: MIT
"""CMOS memory and the clock, byte by byte."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.cmos import Cmos
from pyvmm.memory.layout import GIB, MIB

# A Tuesday.
WHEN = datetime.datetime(2031, 12, 30, 23, 58, 59, tzinfo=datetime.UTC)
BCD_24, BINARY_24, BCD_12, BINARY_12 = 0x02, 0x06, 0x00, 0x04


def cmos(memory: int = 64 * MIB, when: datetime.datetime = WHEN) -> Cmos:
    return Cmos(lambda: when, memory)


def get(device: Cmos, index: int) -> int:
    device.write(0, 1, index)
    return device.read(1, 1)


def put(device: Cmos, index: int, value: int) -> None:
    device.write(0, 1, index)
    device.write(1, 1, value)


def number(device: Cmos, index: int, size: int) -> int:
    return int.from_bytes(bytes(get(device, index + i) for i in range(size)), "little")


@pytest.mark.parametrize(
    ("index", "bcd", "binary"),
    [
        (0x00, 0x59, 59),
        (0x02, 0x58, 58),
        (0x04, 0x23, 23),
        (0x06, 0x03, 3),
        (0x07, 0x30, 30),
        (0x08, 0x12, 12),
        (0x09, 0x31, 31),
        (0x32, 0x20, 20),
    ],
)
def test_time(index: int, bcd: int, binary: int) -> None:
    device = cmos()
    assert get(device, index) == bcd
    put(device, 0x0B, BINARY_24)
    assert get(device, index) == binary


@pytest.mark.parametrize(
    ("hour", "bcd", "binary"),
    [
        (0, 0x12, 12),
        (1, 0x01, 1),
        (10, 0x10, 10),
        (11, 0x11, 11),
        (12, 0x92, 0x8C),
        (13, 0x81, 0x81),
        (23, 0x91, 0x8B),
    ],
)
def test_twelve_hours(hour: int, bcd: int, binary: int) -> None:
    device = cmos(when=WHEN.replace(hour=hour))
    put(device, 0x0B, BCD_12)
    assert get(device, 0x04) == bcd
    put(device, 0x0B, BINARY_12)
    assert get(device, 0x04) == binary


@pytest.mark.parametrize(
    ("day", "number"), [(28, 1), (29, 2), (30, 3), (31, 4)]
)  # 28 December 2031 is a Sunday
def test_day_of_week(day: int, number: int) -> None:
    assert get(cmos(when=WHEN.replace(day=day)), 0x06) == number


@given(st.datetimes(min_value=datetime.datetime(1, 1, 1)), st.sampled_from([0, 2, 4, 6]))
def test_the_time_can_be_told_back(when: datetime.datetime, mode: int) -> None:
    device = cmos(when=when)
    put(device, 0x0B, mode)

    def digits(value: int) -> int:
        return value if mode & 4 else (value >> 4) * 10 + (value & 0x0F)

    hour = get(device, 0x04)
    hour = digits(hour) if mode & 2 else digits(hour & 127) % 12 + (12 if hour & 128 else 0)
    told = datetime.datetime(
        digits(get(device, 0x32)) * 100 + digits(get(device, 0x09)),
        digits(get(device, 0x08)),
        digits(get(device, 0x07)),
        hour,
        digits(get(device, 0x02)),
        digits(get(device, 0x00)),
    )
    assert told == when.replace(microsecond=0)


def test_control_registers() -> None:
    device = cmos()
    assert [get(device, index) for index in range(0x0A, 0x0E)] == [0x26, 0x02, 0x00, 0x80]
    for index in range(0x0A, 0x0E):
        put(device, index, 0xFF)
    assert [get(device, index) for index in range(0x0A, 0x0E)] == [0x7F, 0xFF, 0x00, 0x80]


def test_the_clock_cannot_be_set() -> None:
    device = cmos()
    for index in (0, 2, 4, 6, 7, 8, 9, 0x32):
        before = get(device, index)
        put(device, index, 0x11)
        assert get(device, index) == before


def test_set_holds_the_time() -> None:
    times = [WHEN]
    device = Cmos(lambda: times[-1], 64 * MIB)
    put(device, 0x0B, 0x82)
    times.append(WHEN + datetime.timedelta(seconds=5))
    put(device, 0x0B, 0x86)
    assert get(device, 0x00) == 59
    put(device, 0x0B, 0x06)
    assert get(device, 0x00) == 4


@pytest.mark.parametrize(
    ("memory", "above_1m_kib", "above_16m", "above_4g"),
    [
        (2 * MIB, 1024, 0, 0),
        (16 * MIB, 15 * 1024, 0, 0),
        (17 * MIB, 16 * 1024, 16, 0),
        (64 * MIB, 63 * 1024, 768, 0),
        (65 * MIB, 65535, 784, 0),
        (3 * GIB, 65535, 0xBF00, 0),
        (4 * GIB, 65535, 0xBF00, 0x4000),
        (1024 * GIB, 65535, 0xBF00, 0xFF4000),
        (2048 * GIB, 65535, 0xBF00, 0xFFFFFF),
    ],
)
def test_memory_sizes(memory: int, above_1m_kib: int, above_16m: int, above_4g: int) -> None:
    device = cmos(memory)
    assert number(device, 0x15, 2) == 640
    assert number(device, 0x17, 2) == above_1m_kib
    assert number(device, 0x30, 2) == above_1m_kib
    assert number(device, 0x34, 2) == above_16m
    assert number(device, 0x5B, 3) == above_4g


def test_index_ignores_the_nmi_bit_and_cannot_be_read() -> None:
    device = cmos()
    put(device, 0x8F, 0x0A)
    assert get(device, 0x0F) == 0x0A
    assert device.read(0, 1) == 0xFF


def test_plain_bytes_are_memory() -> None:
    device = cmos()
    for index in (0x01, 0x03, 0x05, 0x0E, 0x0F, 0x10, 0x7F):
        put(device, index, index ^ 0x5A)
    for index in (0x01, 0x03, 0x05, 0x0E, 0x0F, 0x10, 0x7F):
        assert get(device, index) == index ^ 0x5A


def test_index_and_value_in_one_word() -> None:
    bus = Bus("port", ports.PORT_SPACE_SIZE)
    device = cmos()
    bus.add(ports.CMOS_INDEX, ports.CMOS_LENGTH, device, "CMOS")
    bus.handle_out(ports.CMOS_INDEX, 2, 1, b"\x40\x77")
    assert bus.handle_in(ports.CMOS_DATA, 1, 1) == b"\x77"
    assert get(device, 0x40) == 0x77
