# SPDX-License-Identifier: MIT
"""Two of the ways in which software resets a PC by a port write, as far as they reset it.

Each calls `on_reset` for every write that triggers a reset; what that does is for the machine to
say. Linux tries the keyboard controller, then 0xcf9 (``arch/x86/kernel/reboot.c``), which is in
`pyvmm.devices.pci_ports`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyvmm.devices.stateless import Stateless

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedFastReset

_PULSE: Final = 0xF0
_PULSE_NOT_RESET: Final = 0x01

_FAST_RESET: Final = 1 << 0
_FAST_A20: Final = 1 << 1


class KeyboardCommand:
    """The keyboard controller's command and status port, 0x64: no keyboard, only the reset line.

    Commands 0xf0 to 0xff pulse the output port's low bits that are 0 in the command; bit 0 is the
    reset line, hence the usual 0xfe (IBM PC AT Technical Reference, 8042 commands). The status
    reads 0: both buffers empty, so that nobody waits for us.
    """

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self._on_reset = on_reset

    def read(self, offset: int, size: int) -> int:
        """The status: 0."""
        del offset, size
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """A command: only pulses of the reset line do something."""
        del offset, size
        if value & _PULSE == _PULSE and not value & _PULSE_NOT_RESET:
            self._on_reset()


class KeyboardData:
    """The keyboard controller's data port, 0x60: reads 0, drops writes."""

    def read(self, offset: int, size: int) -> int:
        """No key was ever pressed: 0."""
        del offset, size
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Nobody listens."""


class KeyboardController(Stateless):
    """Both ports of the controller, which are not neighbours: `command` at 0x64, `data` at 0x60."""

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self.command = KeyboardCommand(on_reset)
        self.data = KeyboardData()


class FastReset:
    """PS/2 system control port A, 0x92: bit 0 resets when it goes from 0 to 1, bit 1 gates A20.

    The value reads back. A20 is always on, whatever bit 1 says; it starts as 1.
    """

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self._on_reset = on_reset
        self._value = _FAST_A20

    def reset(self) -> None:
        """A20 is on."""
        self._value = _FAST_A20

    def save(self) -> SavedFastReset:
        """The value that reads back."""
        from pyvmm.devices.saved_values import SavedFastReset

        return SavedFastReset(self._value)

    def restore(self, value: SavedFastReset) -> None:
        """Take it over; nothing is reset by that."""
        self._value = value.value

    def read(self, offset: int, size: int) -> int:
        """Read back the value written last."""
        del offset, size
        return self._value

    def write(self, offset: int, size: int, value: int) -> None:
        """Set all 8 bits."""
        del offset, size
        value &= 0xFF
        triggered = value & ~self._value & _FAST_RESET
        self._value = value
        if triggered:
            self._on_reset()
