# SPDX-License-Identifier: MIT
"""Saved state of each device: frozen values of bytes and numbers.

In a module of their own, which is loaded when a device is saved: making these classes takes longer
than making all devices of a machine, and most machines are never saved.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoState:
    """State of a device that has none: it tells only that the device was there."""


@dataclass(frozen=True, slots=True)
class SavedUart:
    """State of a UART: registers by their names, `lines` the outside's modem lines as MSR has them.

    `received` is the receive FIFO, oldest byte first.
    """

    received: bytes
    lines: int
    ier: int
    fcr: int
    lcr: int
    mcr: int
    scr: int
    divisor: int
    msr: int
    overrun: bool
    thr_empty_pending: bool


@dataclass(frozen=True, slots=True)
class SavedRtcFlags:
    """State of `RtcFlags` beside the registers: until when it has looked (microseconds since 1970),
    and register C."""

    looked: int
    happened: int


@dataclass(frozen=True, slots=True)
class SavedCmos:
    """State of a `Cmos`: all its bytes, the selected one, the time at which SET holds the clock
    (microseconds since 1970), and the events."""

    contents: bytes
    index: int
    held: int | None
    flags: SavedRtcFlags


@dataclass(frozen=True, slots=True)
class SavedFastReset:
    """State of a `FastReset`: the byte that reads back."""

    value: int


@dataclass(frozen=True, slots=True)
class SavedPciPorts:
    """State of `PciPorts`: the address that is selected, and the kind of reset written last."""

    address: int
    kind: int


@dataclass(frozen=True, slots=True)
class SavedPmTimer:
    """State of a `PmTimer`: seconds since its counter was 0, as it would be without an end."""

    seconds: float


@dataclass(frozen=True, slots=True)
class SavedTestDevice:
    """State of a `PcTestDevice`: the bank's bytes, the raised lines, the window's bytes, if any."""

    bank: bytes
    raised: tuple[int, ...]
    window: bytes


@dataclass(frozen=True, slots=True)
class SavedFwCfg:
    """State of an `FwCfg`: the key that is selected, if one was, the offset of the next byte of its
    item, and the upper half of a descriptor's address."""

    key: int | None
    offset: int
    upper: int


@dataclass(frozen=True, slots=True)
class SavedLaunchPort:
    """State of a `LaunchPort`."""

    launched: bool
