# SPDX-License-Identifier: MIT
"""The serial port's interrupts: causes, priorities, what clears them (datasheet, table IV)."""

from __future__ import annotations

import pytest

from pyvmm.devices.uart import Uart16550

from .wired_port import (
    DATA,
    FCR,
    IER,
    IIR,
    LOOP,
    LSR,
    MCR,
    MSI,
    MSR,
    RDI,
    RLSI,
    THRI,
    WiredPort,
)


def test_nothing_is_enabled_at_reset(port: WiredPort) -> None:
    port.uart.receive(b"x")
    port.uart.set_carrier(False)
    port.write(DATA, 0)
    assert port.irqs == []
    assert port.read(IIR) == 1


def test_received_byte(port: WiredPort) -> None:
    port.write(IER, RDI)
    port.uart.receive(b"x")
    assert port.irqs == [True]
    assert port.read(IIR) == 4
    assert port.read(IIR) == 4  # only reading the data clears it
    port.read(DATA)
    assert port.irqs == [True, False]
    assert port.read(IIR) == 1


def test_enabling_later_raises_at_once(port: WiredPort) -> None:
    port.uart.receive(b"x")
    port.write(IER, RDI)
    assert port.irqs == [True]
    port.write(IER, 0)
    assert port.irqs == [True, False]


@pytest.mark.parametrize(("fcr", "level"), [(0x01, 1), (0x41, 4), (0x81, 8), (0xC1, 14)])
def test_trigger_levels(port: WiredPort, fcr: int, level: int) -> None:
    port.write(FCR, fcr)
    port.write(IER, RDI)
    for count in range(1, 17):
        port.uart.receive(b"x")
        # Below the level the character timeout, which is over at once.
        assert port.read(IIR) == (0xC4 if count >= level else 0xCC)
    for left in range(15, 0, -1):
        port.read(DATA)
        assert port.read(IIR) == (0xC4 if left >= level else 0xCC)
        assert port.uart.irq
    port.read(DATA)
    assert port.read(IIR) == 0xC1
    assert port.irqs == [True, False]


def test_without_fifo_there_is_no_trigger_level(port: WiredPort) -> None:
    port.write(FCR, 0xC0)
    port.write(IER, RDI)
    port.uart.receive(b"x")
    assert port.read(IIR) == 4


def test_thr_empty_when_enabled(port: WiredPort) -> None:
    port.write(IER, THRI)
    assert port.irqs == [True]
    assert port.read(IIR) == 2  # and reading it as the cause clears it
    assert port.irqs == [True, False]
    assert port.read(IIR) == 1


def test_thr_empty_comes_back_after_each_byte(port: WiredPort) -> None:
    port.write(IER, THRI)
    port.read(IIR)
    port.irqs.clear()
    port.write(DATA, 0x41)
    assert port.irqs == [True]
    # Without IIR read in between, an edge has to be seen nevertheless.
    port.write(DATA, 0x42)
    assert port.irqs == [True, False, True]
    assert port.sent == b"AB"


def test_thr_empty_needs_a_rising_edge_of_its_enable(port: WiredPort) -> None:
    port.write(IER, THRI)
    port.read(IIR)
    port.write(IER, THRI | RDI)
    assert port.read(IIR) == 1
    port.write(IER, 0)
    port.write(IER, THRI)
    assert port.read(IIR) == 2


def test_thr_empty_goes_with_its_enable(port: WiredPort) -> None:
    port.write(IER, THRI)
    port.write(IER, 0)
    assert port.irqs == [True, False]
    assert port.read(IIR) == 1


def test_line_status(port: WiredPort) -> None:
    port.write(IER, RLSI)
    port.write(MCR, LOOP)
    port.write(DATA, 1)
    assert port.irqs == []
    port.write(DATA, 2)
    assert port.read(IIR) == 6
    assert port.read(LSR) & 2
    assert port.irqs == [True, False]


def test_modem_status(port: WiredPort) -> None:
    port.write(IER, MSI)
    port.uart.set_carrier(False)
    assert port.read(IIR) == 0
    assert port.read(IIR) == 0
    assert port.read(MSR) == 0x0B
    assert port.read(IIR) == 1
    assert port.irqs == [True, False]


def test_priorities(port: WiredPort) -> None:
    port.write(FCR, 1)
    port.write(IER, RDI | THRI | RLSI | MSI)
    port.uart.set_carrier(False)
    port.write(MCR, LOOP)
    for value in range(17):
        port.write(DATA, value)
    port.write(MCR, 0)
    assert port.read(IIR) == 0xC6
    port.read(LSR)
    for _ in range(16):
        assert port.read(IIR) == 0xC4
        port.read(DATA)
    assert port.read(IIR) == 0xC2
    assert port.read(IIR) == 0xC0
    port.read(MSR)
    assert port.read(IIR) == 0xC1
    assert port.irqs[-1] is False
    assert port.uart.irq is False


def test_reading_iir_leaves_thr_empty_alone_behind_another_cause(port: WiredPort) -> None:
    port.write(IER, RDI | THRI)
    port.uart.receive(b"x")
    assert port.read(IIR) == 4
    port.read(DATA)
    assert port.read(IIR) == 2


def test_receiver_reset_takes_the_interrupt_back(port: WiredPort) -> None:
    port.write(FCR, 1)
    port.write(IER, RDI)
    port.uart.receive(b"x")
    port.write(FCR, 3)
    assert port.irqs == [True, False]


def test_works_without_an_interrupt_line() -> None:
    uart = Uart16550(bytearray().extend)
    uart.write(IER, 1, 0x0F)
    assert uart.irq
    assert uart.read(IIR, 1) == 2
    assert not uart.irq
