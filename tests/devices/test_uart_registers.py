# SPDX-License-Identifier: MIT
"""The serial port, register by register (PC16550D datasheet, section 8)."""

from __future__ import annotations

import pytest

from pyvmm.devices.uart_registers import FIFO_SIZE

from .wired_port import DATA, DLAB, FCR, IER, IIR, LCR, LOOP, LSR, MCR, MSR, SCR, WiredPort


@pytest.mark.parametrize(
    ("register", "value"),
    [(DATA, 0), (IER, 0), (IIR, 1), (LCR, 0), (MCR, 0), (LSR, 0x60), (MSR, 0xB0), (SCR, 0)],
)
def test_after_reset(port: WiredPort, register: int, value: int) -> None:
    assert port.read(register) == value
    assert port.irqs == []


@pytest.mark.parametrize(
    ("register", "kept"), [(IER, 0x0F), (LCR, 0xFF), (MCR, 0x1F), (SCR, 0xFF), (LSR, 0), (MSR, 0)]
)
@pytest.mark.parametrize("value", [0x00, 0x55, 0xAA, 0xFF])
def test_what_a_register_keeps(port: WiredPort, register: int, kept: int, value: int) -> None:
    before = port.read(register)
    port.write(register, value)
    after = port.read(LSR) if register == LSR else port.uart.read(register, 1)
    if kept:
        assert after == value & kept
    else:
        assert after == before


def test_divisor_latch_hides_data_and_interrupt_enable(port: WiredPort) -> None:
    port.write(IER, 0x05)
    port.uart.receive(b"x")
    port.write(LCR, DLAB | 3)
    assert (port.read(DATA), port.read(IER)) == (12, 0)
    port.write(DATA, 0x34)
    port.write(IER, 0x12)
    assert (port.read(DATA), port.read(IER)) == (0x34, 0x12)
    port.write(LCR, 3)
    assert port.read(IER) == 0x05
    assert port.read(DATA) == ord("x")
    assert port.sent == b""


def test_offsets_repeat_and_values_are_cut(port: WiredPort) -> None:
    port.uart.write(8 + SCR, 4, 0x12345678)
    assert port.uart.read(16 + SCR, 4) == 0x78


def test_transmission(port: WiredPort) -> None:
    for value in b"hello":
        port.write(DATA, value)
        assert port.read(LSR) == 0x60
    assert port.sent == b"hello"


@pytest.mark.parametrize("reset", [0, 2, 4, 6])
def test_no_fcr_write_takes_back_what_was_sent(port: WiredPort, reset: int) -> None:
    port.write(FCR, 1)
    port.write(DATA, 0x41)
    port.write(FCR, 1 | reset)
    assert port.sent == b"A"


@pytest.mark.parametrize(
    ("fcr", "iir", "room"), [(0x00, 0x01, 1), (0x01, 0xC1, 16), (0xC1, 0xC1, 16), (0xC6, 0x01, 1)]
)
def test_fifo_enable(port: WiredPort, fcr: int, iir: int, room: int) -> None:
    port.write(FCR, fcr)
    assert port.read(IIR) == iir
    assert port.uart.room == room


def test_receive_in_fifo_mode(port: WiredPort) -> None:
    port.write(FCR, 1)
    assert port.uart.receive(bytes(range(20))) == FIFO_SIZE
    assert port.uart.receive(b"more") == 0
    got = []
    while port.read(LSR) & 1:
        got.append(port.read(DATA))
    assert got == list(range(16))
    assert port.read(DATA) == 0


def test_receive_without_fifo(port: WiredPort) -> None:
    assert port.uart.receive(b"ab") == 1
    assert port.read(LSR) == 0x61
    assert port.uart.receive(b"b") == 0
    assert port.read(DATA) == ord("a")
    assert port.uart.receive(b"b") == 1
    assert port.read(DATA) == ord("b")


def test_receive_nothing(port: WiredPort) -> None:
    assert port.uart.receive(b"") == 0


@pytest.mark.parametrize(
    ("before", "write", "left"),
    [
        (0x01, 0x01, 3),  # the same again
        (0x01, 0x03, 0),  # receiver reset
        (0x01, 0x05, 3),  # transmitter reset
        (0x01, 0x00, 0),  # off: both are cleared
        (0x01, 0xC1, 3),  # trigger level only
    ],
)
def test_what_fcr_does_to_received_bytes(
    port: WiredPort, before: int, write: int, left: int
) -> None:
    port.write(FCR, before)
    port.uart.receive(b"abc")
    port.write(FCR, write)
    assert bool(port.read(LSR) & 1) == bool(left)
    if left:
        assert port.uart.room == 16 - left


def test_enabling_the_fifo_drops_the_old_byte(port: WiredPort) -> None:
    port.uart.receive(b"a")
    port.write(FCR, 1)
    assert port.read(LSR) == 0x60


def test_room_is_told_at_half_and_at_empty(port: WiredPort) -> None:
    port.write(FCR, 1)
    port.rooms.clear()
    port.uart.receive(bytes(16))
    for _ in range(16):
        port.read(DATA)
    assert port.rooms == [8, 16]
    port.read(DATA)  # empty already
    assert port.rooms == [8, 16]


def test_room_is_told_for_every_byte_without_fifo(port: WiredPort) -> None:
    for _ in range(3):
        port.uart.receive(b"x")
        port.read(DATA)
    assert port.rooms == [1, 1, 1]


@pytest.mark.parametrize("fcr", [0x01, 0x03])
def test_room_is_told_when_a_reset_makes_it(port: WiredPort, fcr: int) -> None:
    port.uart.receive(b"x")
    port.write(FCR, fcr)
    assert port.rooms == [16]


def test_loopback_sends_to_itself(port: WiredPort) -> None:
    port.write(FCR, 1)
    port.write(MCR, LOOP)
    port.write(DATA, 0x5A)
    assert port.sent == b""
    assert port.read(LSR) == 0x61
    assert port.read(DATA) == 0x5A


def test_loopback_disconnects_the_wire(port: WiredPort) -> None:
    port.write(FCR, 1)
    port.rooms.clear()
    port.write(MCR, LOOP)
    assert port.uart.room == 0
    assert port.uart.receive(b"x") == 0
    port.write(DATA, 1)
    port.read(DATA)
    assert port.rooms == []
    port.write(MCR, 0)
    assert port.rooms == [16]


@pytest.mark.parametrize(
    ("mcr", "lines"),
    [(0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80), (0x0A, 0x90), (0x0F, 0xF0), (0, 0)],
)
def test_loopback_of_the_modem_lines(port: WiredPort, mcr: int, lines: int) -> None:
    port.write(MCR, LOOP | mcr)
    assert port.read(MSR) & 0xF0 == lines
    assert port.read(MSR) == lines
    port.write(MCR, mcr)
    assert port.read(MSR) & 0xF0 == 0xB0


def test_ring_indicator_notes_its_trailing_edge_only(port: WiredPort) -> None:
    port.write(MCR, LOOP | 0x0B)
    assert port.read(MSR) == 0xB0
    port.write(MCR, LOOP | 0x0F)
    assert port.read(MSR) == 0xF0
    port.write(MCR, LOOP | 0x0B)
    assert port.read(MSR) == 0xB4


def test_overrun_with_fifo_keeps_the_old(port: WiredPort) -> None:
    port.write(FCR, 1)
    port.write(MCR, LOOP)
    for value in range(17):
        port.write(DATA, value)
    assert port.read(LSR) == 0x63
    assert port.read(LSR) == 0x61
    assert [port.read(DATA) for _ in range(17)] == [*range(16), 0]


def test_overrun_without_fifo_keeps_the_new(port: WiredPort) -> None:
    port.write(MCR, LOOP)
    port.write(DATA, 1)
    port.write(DATA, 2)
    assert port.read(LSR) == 0x63
    assert port.read(DATA) == 2
    assert port.read(LSR) == 0x60


def test_carrier(port: WiredPort) -> None:
    port.uart.set_carrier(True)
    assert port.read(MSR) == 0xB0
    port.uart.set_carrier(False)
    assert port.read(MSR) == 0x0B
    assert port.read(MSR) == 0x00
    port.uart.set_carrier(True)
    assert port.read(MSR) == 0xBB
    port.uart.set_carrier(False)
    port.uart.set_carrier(True)
    assert port.read(MSR) == 0xBB


def test_what_was_received_before_the_carrier_was_lost_stays(port: WiredPort) -> None:
    port.uart.receive(b"z")
    port.uart.set_carrier(False)
    assert port.read(LSR) & 1
    assert port.read(DATA) == ord("z")


def test_the_carrier_lost_during_loopback_shows_after_it(port: WiredPort) -> None:
    port.write(MCR, LOOP | 0x0B)
    port.read(MSR)
    port.uart.set_carrier(False)
    assert port.read(MSR) == 0xB0
    port.write(MCR, 0x0B)
    assert port.read(MSR) == 0x0B
