# SPDX-License-Identifier: MIT
"""The three ways in which software resets a PC by a port write, as far as they reset it.

Each calls `on_reset` for every write that triggers a reset; what that does is for the machine to
say. Linux tries the keyboard controller, then 0xcf9 (``arch/x86/kernel/reboot.c``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pyvmm.devices import ports
from pyvmm.devices.bus import Bus

_PULSE: Final = 0xF0
_PULSE_NOT_RESET: Final = 0x01

_RESET_KIND: Final = 1 << 1
_RESET_CPU: Final = 1 << 2

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


class KeyboardController:
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


class ResetControl:
    """The reset control register, 0xcf9, a single-byte port.

    Bit 1 is the kind of reset, hard or soft, and reads back; a write with bit 2 set resets (Intel
    82371SB PIIX3, "RC: reset control register", as QEMU does it).
    """

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self._on_reset = on_reset
        self._kind = 0

    def read(self, offset: int, size: int) -> int:
        """The kind of reset that was written last, in bit 1."""
        del offset, size
        return self._kind

    def write(self, offset: int, size: int, value: int) -> None:
        """Set the kind of reset, and reset."""
        del offset, size
        self._kind = value & _RESET_KIND
        if value & _RESET_CPU:
            self._on_reset()


class PciConfigAddress:
    """The 4 ports from 0xcf8 on: no PCI bus, only `control` at offset 1, for single bytes.

    A 32-bit write at 0xcf8 is a PCI configuration address, whose second byte may look like a reset
    but is a device and function number. Split into bytes it would reset the machine of a guest
    that looks for PCI devices; so this takes it whole, and reads all ones to say that there is no
    PCI.
    """

    def __init__(self, control: ResetControl) -> None:
        self._control = control

    def read(self, offset: int, size: int) -> int:
        """The reset control register, or all ones."""
        if offset == 1 and size == 1:
            return self._control.read(0, 1)
        return (1 << 8 * size) - 1

    def write(self, offset: int, size: int, value: int) -> None:
        """The reset control register, or nothing."""
        if offset == 1 and size == 1:
            self._control.write(0, 1, value)


def add_resets(bus: Bus, on_reset: Callable[[], None]) -> None:
    """Put everything of this module in its places on a port bus."""
    keyboard = KeyboardController(on_reset)
    bus.add(ports.KEYBOARD_DATA, 1, keyboard.data, "keyboard data")
    bus.add(ports.KEYBOARD_COMMAND, 1, keyboard.command, "keyboard command")
    bus.add(ports.FAST_RESET, 1, FastReset(on_reset), "fast reset")
    bus.add(
        ports.PCI_CONFIG_ADDRESS,
        ports.PCI_CONFIG_ADDRESS_LENGTH,
        PciConfigAddress(ResetControl(on_reset)),
        "reset control",
        width=ports.PCI_CONFIG_ADDRESS_WIDTH,
    )
