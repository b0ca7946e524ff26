# SPDX-License-Identifier: MIT
"""Saved state of each device: frozen values of bytes and numbers.

In a module of their own, which is loaded when a device is saved: making these classes takes longer
than making all devices of a machine, and most machines are never saved. A value that no device can
have been saved with is refused when it is made (`UsageError`): restoring one would break later.
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from typing import Final

from pyvmm.devices.ports import CMOS_SIZE, TEST_LENGTH, TEST_LINE_COUNT, TEST_WINDOW_SIZE
from pyvmm.devices.uart_registers import FIFO_SIZE
from pyvmm.errors import UsageError

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)


def microseconds(time: datetime.datetime) -> int:
    """A time (UTC) as a number: microseconds since 1970."""
    return (time - _EPOCH) // _MICROSECOND


def time_of(number: int) -> datetime.datetime:
    """Invert `microseconds`."""
    return _EPOCH + number * _MICROSECOND


def require(*, holds: bool, of: object, part: str) -> None:
    """Refuse a value, by `UsageError`, unless the condition `holds` for a `part` of it."""
    if not holds:
        raise UsageError(
            f"restore a device from a {type(of).__name__}",
            f"no device was ever saved with such {part}",
            "save it again",
        )


def require_numbers(of: object, *names: str, bits: int) -> None:
    """Refuse a value, by `UsageError`, unless these fields are numbers of so many bits."""
    for name in names:
        value = getattr(of, name)
        fits = isinstance(value, int) and 0 <= value < 1 << bits
        require(holds=fits, of=of, part=name)


def _is_time(number: int) -> bool:
    try:
        time_of(number)
    except (OverflowError, TypeError):
        return False
    return True


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

    def __post_init__(self) -> None:
        require_numbers(self, "lines", "ier", "fcr", "lcr", "mcr", "scr", "msr", bits=8)
        require_numbers(self, "divisor", bits=16)
        require(holds=len(self.received) <= FIFO_SIZE, of=self, part="received")


@dataclass(frozen=True, slots=True)
class SavedRtcFlags:
    """State of `RtcFlags` beside the registers: until when it has looked (microseconds since 1970),
    and register C."""

    looked: int
    happened: int

    def __post_init__(self) -> None:
        require_numbers(self, "happened", bits=8)
        require(holds=_is_time(self.looked), of=self, part="looked")


@dataclass(frozen=True, slots=True)
class SavedCmos:
    """State of a `Cmos`: all its bytes, the selected one, the time at which SET holds the clock
    (microseconds since 1970), and the events."""

    contents: bytes
    index: int
    held: int | None
    flags: SavedRtcFlags

    def __post_init__(self) -> None:
        require(holds=len(self.contents) == CMOS_SIZE, of=self, part="contents")
        require_numbers(self, "index", bits=7)
        require(holds=self.held is None or _is_time(self.held), of=self, part="held")
        require(holds=isinstance(self.flags, SavedRtcFlags), of=self, part="flags")


@dataclass(frozen=True, slots=True)
class SavedFastReset:
    """State of a `FastReset`: the byte that reads back."""

    value: int

    def __post_init__(self) -> None:
        require_numbers(self, "value", bits=8)


@dataclass(frozen=True, slots=True)
class SavedPciPorts:
    """State of `PciPorts`: the address that is selected, and the kind of reset written last."""

    address: int
    kind: int

    def __post_init__(self) -> None:
        require_numbers(self, "address", bits=32)
        require_numbers(self, "kind", bits=8)


@dataclass(frozen=True, slots=True)
class SavedPmTimer:
    """State of a `PmTimer`: seconds since its counter was 0, as it would be without an end."""

    seconds: float

    def __post_init__(self) -> None:
        require(holds=math.isfinite(self.seconds), of=self, part="seconds")


@dataclass(frozen=True, slots=True)
class SavedPower:
    """State of a `PowerManagement`: its three registers."""

    status: int
    enable: int
    control: int

    def __post_init__(self) -> None:
        require_numbers(self, "status", "enable", "control", bits=16)


@dataclass(frozen=True, slots=True)
class SavedTestDevice:
    """State of a `PcTestDevice`: the bank's bytes, the raised lines, the window's bytes, if any."""

    bank: bytes
    raised: tuple[int, ...]
    window: bytes

    def __post_init__(self) -> None:
        require(holds=len(self.bank) == TEST_LENGTH, of=self, part="bank")
        lines = set(self.raised) <= set(range(TEST_LINE_COUNT))
        require(holds=lines, of=self, part="raised")
        require(holds=len(self.window) in (0, TEST_WINDOW_SIZE), of=self, part="window")


@dataclass(frozen=True, slots=True)
class SavedFwCfg:
    """State of an `FwCfg`: the key that is selected, if one was, the offset of the next byte of its
    item, and the upper half of a descriptor's address."""

    key: int | None
    offset: int
    upper: int

    def __post_init__(self) -> None:
        require_numbers(self, "offset", bits=64)
        require_numbers(self, "upper", bits=32)
        if self.key is not None:
            require_numbers(self, "key", bits=16)


@dataclass(frozen=True, slots=True)
class SavedLaunchPort:
    """State of a `LaunchPort`."""

    launched: bool
