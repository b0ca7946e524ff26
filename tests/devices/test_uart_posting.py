# SPDX-License-Identifier: MIT
"""What the serial port lets a fast path do, state by state."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvmm.devices.posting import PortPosting

from .wired_port import DATA, DLAB, FCR, IER, IIR, LCR, LOOP, LSR, MCR, MSR, THRI, WiredPort

THR = PortPosting(0, write=True, read_value=None)
IDLE = PortPosting(5, write=False, read_value=0x60)


def lines(value: int) -> PortPosting:
    return PortPosting(6, write=False, read_value=value)


def looped_overrun(port: WiredPort) -> None:
    port.write(MCR, LOOP | 0x0B)
    port.write(DATA, 1)
    port.write(DATA, 2)
    port.read(DATA)
    port.write(MCR, 0)


@pytest.mark.parametrize(
    ("prepare", "posting"),
    [
        (lambda p: None, {THR, IDLE, lines(0xB0)}),
        (lambda p: p.write(IER, 0x0D), {THR, IDLE, lines(0xB0)}),
        (lambda p: p.write(FCR, 0xC7), {THR, IDLE, lines(0xB0)}),
        (lambda p: p.write(LCR, DLAB), {IDLE, lines(0xB0)}),
        (lambda p: p.write(IER, THRI), {IDLE, lines(0xB0)}),
        (lambda p: (p.write(IER, THRI), p.read(IIR)), {IDLE, lines(0xB0)}),
        (lambda p: (p.write(IER, THRI), p.write(IER, 0)), {THR, IDLE, lines(0xB0)}),
        (lambda p: p.uart.receive(b"x"), {THR, lines(0xB0)}),
        (lambda p: (p.uart.receive(b"x"), p.read(DATA)), {THR, IDLE, lines(0xB0)}),
        (lambda p: (p.uart.receive(b"x"), p.write(FCR, 1)), {THR, IDLE, lines(0xB0)}),
        (lambda p: p.uart.set_carrier(False), {THR, IDLE}),
        (lambda p: (p.uart.set_carrier(False), p.read(MSR)), {THR, IDLE, lines(0x00)}),
        (lambda p: p.write(MCR, LOOP | 0x0B), {IDLE, lines(0xB0)}),
        (lambda p: p.write(MCR, LOOP), {IDLE}),
        (lambda p: (p.write(MCR, LOOP), p.read(MSR)), {IDLE, lines(0x00)}),
        (lambda p: (p.write(MCR, LOOP | 0x0B), p.write(DATA, 1)), {lines(0xB0)}),
        (looped_overrun, {THR, lines(0xB0)}),
        (lambda p: (looped_overrun(p), p.read(LSR)), {THR, IDLE, lines(0xB0)}),
    ],
)
def test_posting(
    port: WiredPort, prepare: Callable[[WiredPort], object], posting: set[PortPosting]
) -> None:
    prepare(port)
    assert set(port.uart.posting) == posting
    assert len(port.uart.posting) == len(posting)


def test_posting_comes_back_as_the_same_object(port: WiredPort) -> None:
    at_first = port.uart.posting
    port.write(DATA, 0x41)
    assert port.uart.posting is at_first
    port.write(IER, THRI)
    assert port.uart.posting is not at_first
    port.write(IER, 0)
    assert port.uart.posting is at_first


def test_posted_bytes_go_out_in_order(port: WiredPort) -> None:
    port.uart.posted_write(b"ab")
    port.write(DATA, ord("c"))
    port.uart.posted_write(b"")
    port.uart.posted_write(b"d")
    assert port.sent == b"abcd"
