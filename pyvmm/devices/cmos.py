# SPDX-License-Identifier: MIT
"""CMOS memory and real-time clock, ports 0x70 and 0x71.

Sources: Motorola MC146818 datasheet for the clock (bytes 0x00 to 0x0d); for the memory sizes what
QEMU (hw/i386/pc.c, ``pc_cmos_init``) writes and SeaBIOS reads.

The clock is the host's: a guest can read but not set it, and updates are never in progress. Setting
register B's SET bit holds the time that it reads. Alarm, periodic and update events are in register
C (`pyvmm.devices.rtc_flags`), and interrupt where somebody can be interrupted.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final

from pyvmm.devices.ports import CMOS_SIZE
from pyvmm.devices.rtc_flags import (
    SET,
    AlarmTime,
    RtcFlags,
)
from pyvmm.memory.address_map import memory_below
from pyvmm.memory.layout import MIB

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedCmos

SIZE: Final = CMOS_SIZE
"""Bytes of CMOS memory, the clock's included."""


class CmosByte(enum.IntEnum):
    """Offsets in the CMOS memory. Numbers of more than a byte are little endian."""

    SECONDS = 0x00
    ALARM_SECONDS = 0x01
    """0xc0 and above: any second. So with minutes and hours."""
    MINUTES = 0x02
    ALARM_MINUTES = 0x03
    HOURS = 0x04
    ALARM_HOURS = 0x05
    DAY_OF_WEEK = 0x06
    """1 is Sunday."""
    DAY = 0x07
    MONTH = 0x08
    YEAR = 0x09
    """Of the century."""
    REGISTER_A = 0x0A
    REGISTER_B = 0x0B
    REGISTER_C = 0x0C
    REGISTER_D = 0x0D
    BASE_MEMORY = 0x15
    """KiB below 640 KiB, 2 bytes."""
    EXTENDED_MEMORY = 0x17
    """KiB above 1 MiB, at most 65535, 2 bytes."""
    EXTENDED_MEMORY_TOO = 0x30
    """The same again."""
    CENTURY = 0x32
    MEMORY_ABOVE_16M = 0x34
    """Units of 64 KiB between 16 MiB and 4 GiB, 2 bytes."""
    MEMORY_ABOVE_4G = 0x5B
    """Units of 64 KiB above 4 GiB, 3 bytes."""


_A_VALUE: Final = 0x26
"""Register A: a time base of 32768 Hz and the periodic rate of every PC; bit 7, update in progress,
clear."""
_A_WRITABLE: Final = 0x7F
_B_BINARY: Final = 1 << 2
_B_24_HOURS: Final = 1 << 1
_D_VALID: Final = 0x80
_PM: Final = 0x80
_INDEX: Final = 0x7F
_ANY: Final = 0xC0
_CONFIGURING: Final = frozenset(
    {
        CmosByte.ALARM_SECONDS,
        CmosByte.ALARM_MINUTES,
        CmosByte.ALARM_HOURS,
        CmosByte.REGISTER_A,
        CmosByte.REGISTER_B,
    }
)

_BASE_KIB: Final = 640
_4_GIB: Final = 1 << 32
_UNIT: Final = 64 * 1024

_READ_ONLY: Final = frozenset(
    {
        CmosByte.SECONDS,
        CmosByte.MINUTES,
        CmosByte.HOURS,
        CmosByte.DAY_OF_WEEK,
        CmosByte.DAY,
        CmosByte.MONTH,
        CmosByte.YEAR,
        CmosByte.CENTURY,
        CmosByte.REGISTER_C,
        CmosByte.REGISTER_D,
    }
)


class Cmos:
    """Two single-byte ports: the index at offset 0, the byte it selects at offset 1.

    `now` gives the time that the clock shows (UTC, by custom). `memory_size` is all of the guest's
    RAM in bytes, laid out by `AddressMap`. `set_line` is the interrupt line; None:
    there is nobody to interrupt.
    """

    def __init__(
        self,
        now: Callable[[], datetime.datetime],
        memory_size: int,
        set_line: Callable[[bool], None] | None = None,
    ) -> None:
        self.on_change: Callable[[], None] | None = None
        """Called when what `poll` has said last may no longer hold."""
        self._now = now
        self._flags = RtcFlags(now, set_line)
        self._held: datetime.datetime | None = None
        self._index = 0
        self._bytes = bytearray(SIZE)
        self._bytes[CmosByte.REGISTER_A] = _A_VALUE
        self._bytes[CmosByte.REGISTER_B] = _B_24_HOURS
        self._bytes[CmosByte.REGISTER_D] = _D_VALID
        self._put_memory_size(memory_size)
        self._new = bytes(self._bytes)
        self._flags.configure(*self._registers())

    def reset(self) -> None:
        """The memory as it was made, and no events."""
        self._bytes[:] = self._new
        self._index, self._held = 0, None
        self._flags.reset()
        self._configure()

    def save(self) -> SavedCmos:
        """Memory and events. The time is the host's, wherever it is restored."""
        from pyvmm.devices.saved_values import SavedCmos, microseconds

        held = None if self._held is None else microseconds(self._held)
        return SavedCmos(bytes(self._bytes), self._index, held, self._flags.save())

    def restore(self, value: SavedCmos) -> None:
        """Take over memory and events; those since the saving happen at the next look."""
        from pyvmm.devices.saved_values import time_of

        self._bytes[:] = value.contents
        self._index = value.index
        self._held = None if value.held is None else time_of(value.held)
        self._flags.restore(value.flags, *self._registers())
        self._tell()

    def poll(self) -> float | None:
        """Interrupt if that is due; in how many seconds to come again, None: after a change."""
        self._flags.poll()
        return self._flags.next_due()

    def read(self, offset: int, size: int) -> int:
        """The selected byte; the index itself cannot be read and gives 0xff."""
        del size
        if offset == 0:
            return 0xFF
        if self._index == CmosByte.REGISTER_C:
            flags = self._flags.take()
            self._tell()
            return flags
        clock = self._clock_byte(self._index)
        return self._bytes[self._index] if clock is None else clock

    def write(self, offset: int, size: int, value: int) -> None:
        """Select a byte, or write it. Bit 7 of the index masks NMIs, of which there are none."""
        del size
        if offset == 0:
            self._index = value & _INDEX
            return
        value &= 0xFF
        index = self._index
        if index == CmosByte.REGISTER_A:
            self._bytes[index] = value & _A_WRITABLE
        elif index == CmosByte.REGISTER_B:
            if value & SET and self._held is None:
                self._held = self._now()
            elif not value & SET:
                self._held = None
            self._bytes[index] = value
        elif index not in _READ_ONLY:
            self._bytes[index] = value
        if index in _CONFIGURING:
            self._configure()

    def _tell(self) -> None:
        if self.on_change is not None:
            self.on_change()

    def _configure(self) -> None:
        """Tell the events what the registers say now."""
        self._flags.configure(*self._registers())
        self._tell()

    def _registers(self) -> tuple[int, int, AlarmTime]:
        """Registers A and B, and the alarm."""
        alarm = AlarmTime(
            self._matching(CmosByte.ALARM_HOURS, range(24), self._hours),
            self._matching(CmosByte.ALARM_MINUTES, range(60), self._digits),
            self._matching(CmosByte.ALARM_SECONDS, range(60), self._digits),
        )
        return self._bytes[CmosByte.REGISTER_A], self._bytes[CmosByte.REGISTER_B], alarm

    def _matching(
        self, at: CmosByte, numbers: range, shown: Callable[[int], int]
    ) -> Collection[int]:
        """Select the `numbers` whose `shown` form is the alarm's byte `at`; all if any matches."""
        wanted = self._bytes[at]
        if wanted >= _ANY:
            return numbers
        # Which it can be, in 24 hours and in 12: trying all of them would take a machine longer
        # than all of its other devices.
        hour = self._number(wanted & ~_PM) % 12
        guesses = {self._number(wanted), hour, hour + 12}
        return [guess for guess in guesses if guess in numbers and shown(guess) == wanted]

    def _clock_byte(self, index: int) -> int | None:
        """The byte as the clock shows it, None if it is none of the clock's."""
        if index > CmosByte.YEAR and index != CmosByte.CENTURY:
            return None
        time = self._held or self._now()
        match index:
            case CmosByte.SECONDS:
                return self._digits(time.second)
            case CmosByte.MINUTES:
                return self._digits(time.minute)
            case CmosByte.HOURS:
                return self._hours(time.hour)
            case CmosByte.DAY_OF_WEEK:
                return self._digits(time.isoweekday() % 7 + 1)
            case CmosByte.DAY:
                return self._digits(time.day)
            case CmosByte.MONTH:
                return self._digits(time.month)
            case CmosByte.YEAR:
                return self._digits(time.year % 100)
            case CmosByte.CENTURY:
                return self._digits(time.year // 100)
            case _:
                return None

    def _digits(self, number: int) -> int:
        """A number of 0..99 as register B wants it: binary or BCD."""
        if self._bytes[CmosByte.REGISTER_B] & _B_BINARY:
            return number
        return number // 10 << 4 | number % 10

    def _number(self, digits: int) -> int:
        """Invert `_digits`, where there is such a number."""
        if self._bytes[CmosByte.REGISTER_B] & _B_BINARY:
            return digits
        return (digits >> 4) * 10 + (digits & 0xF)

    def _hours(self, hour: int) -> int:
        if self._bytes[CmosByte.REGISTER_B] & _B_24_HOURS:
            return self._digits(hour)
        # Midnight is 12 AM, noon 12 PM.
        return self._digits((hour + 11) % 12 + 1) | (_PM if hour >= 12 else 0)

    def _put_memory_size(self, memory_size: int) -> None:
        below_4g = min(memory_size, memory_below(_4_GIB))
        above_4g = memory_size - below_4g
        extended = min(max(below_4g - MIB, 0) // 1024, 0xFFFF)
        self._put(CmosByte.BASE_MEMORY, _BASE_KIB, 2)
        self._put(CmosByte.EXTENDED_MEMORY, extended, 2)
        self._put(CmosByte.EXTENDED_MEMORY_TOO, extended, 2)
        self._put(CmosByte.MEMORY_ABOVE_16M, max(below_4g - 16 * MIB, 0) // _UNIT, 2)
        self._put(CmosByte.MEMORY_ABOVE_4G, min(above_4g // _UNIT, 0xFF_FFFF), 3)

    def _put(self, at: CmosByte, number: int, size: int) -> None:
        self._bytes[at : at + size] = number.to_bytes(size, "little")
