# SPDX-License-Identifier: MIT
"""The map of ports contradicts itself nowhere, and nothing in the room reaches outside."""

from __future__ import annotations

import ast
from pathlib import Path

import pyvmm.devices
from pyvmm.devices import ports
from pyvmm.devices.pc_testdev import LINES

FORBIDDEN = {"os", "mmap", "cffi", "trio", "threading", "time", "socket", "asyncio", "subprocess"}
ABOVE = {"machine", "hosts", "cli", "boot"}
LOWER_DOWN = {"pyvmm.hosts.pit", "pyvmm.hosts.interrupts"}
"""The timer, which the model's controllers have as well, and the value that a message is."""


def test_no_two_devices_share_a_port() -> None:
    places = {
        "keyboard data": (ports.KEYBOARD_DATA, 1),
        "keyboard command": (ports.KEYBOARD_COMMAND, 1),
        "CMOS": (ports.CMOS_INDEX, ports.CMOS_LENGTH),
        "fast reset": (ports.FAST_RESET, 1),
        "debug console": (ports.DEBUG_CONSOLE, 1),
        "exit": (ports.EXIT, ports.EXIT_LENGTH),
        "COM1": (ports.COM1, ports.COM1_LENGTH),
        "pvpanic": (ports.PVPANIC, 1),
        "test bank": (ports.TEST_BANK, ports.TEST_LENGTH),
        "test flush": (ports.TEST_FLUSH, ports.TEST_LENGTH),
        "test byte": (ports.TEST_BYTE_BANK, 1),
        "test bytes": (ports.TEST_BYTE_BANK + 2, 2),
        "test lines": (ports.TEST_LINES, LINES),
        "debug exit": (ports.DEBUG_EXIT, ports.DEBUG_EXIT_LENGTH),
        "fw_cfg": (ports.FW_CFG, ports.FW_CFG_LENGTH),
        "fw_cfg DMA": (ports.FW_CFG_DMA, ports.FW_CFG_DMA_LENGTH),
        "launch": (ports.LAUNCH, 1),
        "POST": (ports.POST, 1),
        "PM events": (ports.PM_EVENTS, ports.PM_EVENTS_LENGTH),
        "PM control": (ports.PM_CONTROL, ports.PM_CONTROL_LENGTH),
        "PM timer": (ports.PM_TIMER, ports.PM_TIMER_LENGTH),
        "PCI address": (ports.PCI_ADDRESS, ports.PCI_LENGTH),
        "PCI data": (ports.PCI_DATA, ports.PCI_LENGTH),
    }
    # What the kernel's interrupt controllers and timer answer by themselves.
    taken: dict[int, str] = dict.fromkeys(
        [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x4D1, 0x40, 0x41, 0x42, 0x43, 0x61], "kernel"
    )
    assert {ports.PIC, ports.SECOND_PIC + 1, ports.ELCR + ports.PIC_LENGTH - 1} <= taken.keys()
    assert {ports.PIT, ports.PIT + ports.PIT_LENGTH - 1, ports.PORT_B} <= taken.keys()
    for name, (start, length) in places.items():
        for port in range(start, start + length):
            assert port < ports.PORT_SPACE_SIZE
            assert taken.setdefault(port, name) == name
    assert taken[ports.RESET_CONTROL] == "PCI address"
    assert taken[ports.CMOS_DATA] == "CMOS"


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_the_room_is_pure() -> None:
    files = sorted(Path(pyvmm.devices.__file__).parent.rglob("*.py"))
    assert len(files) > 5
    for path in files:
        for name in imported(path):
            parts = name.split(".")
            assert parts[0] not in FORBIDDEN, f"{path.name} imports {name}"
            if parts[0] == "pyvmm" and len(parts) > 1 and name not in LOWER_DOWN:
                assert parts[1] not in ABOVE, f"{path.name} imports {name}"
