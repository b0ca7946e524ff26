# SPDX-License-Identifier: MIT
"""Exit port, debug console, pvpanic, keyboard controller, port 0x92."""

from __future__ import annotations

import pytest

from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.debug_console import DebugConsole
from pyvmm.devices.exit_port import ExitPort
from pyvmm.devices.posting import PortPosting
from pyvmm.devices.pvpanic import PanicEvent, Pvpanic
from pyvmm.devices.reset import FastReset, KeyboardController


class Resets:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.mark.parametrize(
    ("size", "value", "status"),
    [(1, 0, 0), (1, 63, 63), (1, 64, 64), (1, 255, 255), (2, 0x1234, 0x34), (4, 0xFFFFFF07, 7)],
)
def test_exit_port(size: int, value: int, status: int) -> None:
    statuses: list[int] = []
    bus = Bus("port", ports.PORT_SPACE_SIZE)
    bus.add(ports.EXIT, ports.EXIT_LENGTH, ExitPort(statuses.append), "exit", width=4)
    bus.handle_out(ports.EXIT, size, 1, value.to_bytes(size, "little"))
    assert statuses == [status]
    assert bus.handle_in(ports.EXIT, size, 1) == bytes(size)


def test_debug_console() -> None:
    shown = bytearray()
    console = DebugConsole(shown.extend)
    assert console.read(0, 1) == 0xE9
    console.write(0, 1, ord("a"))
    console.posted_write(b"bc")
    assert shown == b"abc"
    assert console.posting == (PortPosting(0, write=True, read_value=0xE9),)
    assert console.posting is console.posting


def test_debug_console_takes_strings() -> None:
    shown = bytearray()
    bus = Bus("port", ports.PORT_SPACE_SIZE)
    bus.add(ports.DEBUG_CONSOLE, 1, DebugConsole(shown.extend), "debug console")
    bus.handle_out(ports.DEBUG_CONSOLE, 1, 5, b"hello")
    assert shown == b"hello"


@pytest.mark.parametrize(
    ("value", "events"),
    [
        (0, []),
        (1, [PanicEvent.PANICKED]),
        (2, [PanicEvent.CRASH_LOADED]),
        (3, [PanicEvent.PANICKED]),
        (4, []),
        (0xFE, [PanicEvent.CRASH_LOADED]),
    ],
)
def test_pvpanic(value: int, events: list[PanicEvent]) -> None:
    reported: list[PanicEvent] = []
    device = Pvpanic(reported.append)
    assert device.read(0, 1) == 3
    device.write(0, 1, value)
    assert reported == events


@pytest.mark.parametrize(
    ("command", "resets"),
    [(0xFE, 1), (0xF0, 1), (0xFF, 0), (0xF1, 0), (0xD1, 0), (0xAA, 0), (0, 0)],
)
def test_keyboard_controller(command: int, resets: int) -> None:
    count = Resets()
    keyboard = KeyboardController(count)
    keyboard.command.write(0, 1, command)
    keyboard.data.write(0, 1, command)
    assert count.count == resets
    assert keyboard.command.read(0, 1) == 0
    assert keyboard.data.read(0, 1) == 0


def test_fast_reset_triggers_on_the_rising_bit() -> None:
    count = Resets()
    device = FastReset(count)
    assert device.read(0, 1) == 2
    for value, resets in [(0x00, 0), (0x02, 0), (0x03, 1), (0x01, 1), (0x00, 1), (0x01, 2)]:
        device.write(0, 1, value)
        assert count.count == resets
        assert device.read(0, 1) == value
