# SPDX-License-Identifier: MIT
"""ACPI's fixed hardware of a PC: PM1 events and control, and the power button behind them.

Source: ACPI 6.5, 4.8.3. The button is a fixed one: pressed, it sets its status bit, and where the
guest has enabled it the SCI rises, by level. Of the other events none happens: neither the timer's
carry, which is told by no interrupt here, nor wakeups, since there is no sleep but the last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedPower

SOFT_OFF: Final = 5
"""SLP_TYP of S5, as the guest's tables name it."""

_STATUS: Final = 0
_ENABLE: Final = 2
"""Offsets of the event block's two registers, 16 bits each (4.8.3.1)."""
_BUTTON: Final = 1 << 8
"""PWRBTN_STS, PWRBTN_EN."""
_ENABLES: Final = 1 << 0 | 1 << 5 | _BUTTON | 1 << 9 | 1 << 10
"""TMR_EN, GBL_EN, PWRBTN_EN, SLPBTN_EN, RTC_EN: what can be written and reads back."""

_SCI_ENABLED: Final = 1 << 0
"""SCI_EN: always on, since there is no SMI that would switch it (4.8.2.5)."""
_SLEEP_TYPE: Final = 7 << 10
_SLEEP_TYPE_SHIFT: Final = 10
_SLEEP: Final = 1 << 13
"""SLP_EN: written only."""
_KEPT: Final = 1 << 1 | _SLEEP_TYPE
"""BM_RLD and SLP_TYP of the control register read back; GBL_RLS and SLP_EN read 0 (4.8.3.2)."""


class PowerManagement:
    """PM1 event block (`events`) and PM1 control block (`control`).

    `set_sci` sets the SCI's level, None: nobody takes it; `power_off` is called where the guest
    goes to sleep by `SOFT_OFF`. Any other sleep is none.
    """

    def __init__(
        self, set_sci: Callable[[bool], None] | None, power_off: Callable[[], None]
    ) -> None:
        self._set_sci = set_sci
        self._power_off = power_off
        self._status = self._enable = self._control = 0
        self._raised = False
        self.events = PowerEvents(self)
        self.control = PowerControl(self)

    def reset(self) -> None:
        """No event, none enabled."""
        self._status = self._enable = self._control = 0
        self._update()

    def save(self) -> SavedPower:
        """The registers."""
        from pyvmm.devices.saved_values import SavedPower

        return SavedPower(self._status, self._enable, self._control)

    def restore(self, value: SavedPower) -> None:
        """Take them over, and drive the SCI by them."""
        self._status, self._enable, self._control = value.status, value.enable, value.control
        self._update()

    def press(self) -> None:
        """Press the power button."""
        self._status |= _BUTTON
        self._update()

    def _update(self) -> None:
        raised = bool(self._status & self._enable)
        if raised != self._raised:
            self._raised = raised
            if self._set_sci is not None:
                self._set_sci(raised)

    # -- for the two blocks --

    def read_events(self) -> int:
        """Both event registers, as a number of 32 bits."""
        return self._status | self._enable << 16

    def write_events(self, value: int, mask: int) -> None:
        """Write the bits of both that `mask` has: ones clear a status."""
        self._status &= ~(value & mask)
        kept = self._enable & ~(mask >> 16)
        self._enable = (kept | (value & mask) >> 16) & _ENABLES
        self._update()

    def read_control(self) -> int:
        """The control register."""
        return self._control | _SCI_ENABLED

    def write_control(self, value: int, mask: int) -> None:
        """Write the bits of it that `mask` has; SLP_EN sends the machine to sleep."""
        self._control = (self._control & ~mask | value & mask) & _KEPT
        if value & mask & _SLEEP and self._control >> _SLEEP_TYPE_SHIFT == SOFT_OFF:
            self._power_off()


class PowerEvents:
    """Four ports: PM1 status, PM1 enable."""

    def __init__(self, power: PowerManagement) -> None:
        self._power = power

    def read(self, offset: int, size: int) -> int:
        """A register, or a part of it."""
        return self._power.read_events() >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Clear events, or choose those that interrupt."""
        self._power.write_events(value << 8 * offset, (1 << 8 * size) - 1 << 8 * offset)


class PowerControl:
    """Two ports: PM1 control."""

    def __init__(self, power: PowerManagement) -> None:
        self._power = power

    def read(self, offset: int, size: int) -> int:
        """The register, or a part of it."""
        return self._power.read_control() >> 8 * offset & (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """Choose a sleep, or go to it."""
        self._power.write_control(value << 8 * offset, (1 << 8 * size) - 1 << 8 * offset)
