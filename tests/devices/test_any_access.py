# SPDX-License-Identifier: MIT
"""Whatever a guest does to whichever port, no device raises and every value fits its size."""

from __future__ import annotations

import datetime

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.cmos import Cmos
from pyvmm.devices.debug_console import DebugConsole
from pyvmm.devices.exit_port import ExitPort
from pyvmm.devices.fw_cfg import FwCfg, item_of, with_directory
from pyvmm.devices.pc_testdev import (
    LINES,
    BankByte,
    InterruptLines,
    PageFlush,
    PortBank,
    Window,
)
from pyvmm.devices.pci_ports import PciPorts
from pyvmm.devices.post_code import PostCode
from pyvmm.devices.power import PowerManagement
from pyvmm.devices.pvpanic import Pvpanic
from pyvmm.devices.reset import FastReset, KeyboardController
from pyvmm.devices.timers import PitTimer, PmTimer
from pyvmm.devices.uart import Uart16550

from .guest_bytes import Memory


def whole_bus() -> Bus:
    bus = Bus("port", ports.PORT_SPACE_SIZE)
    sink = bytearray()
    seen: list[object] = []
    keyboard = KeyboardController(lambda: seen.append(None))
    bus.add(ports.KEYBOARD_DATA, 1, keyboard.data, "keyboard data")
    bus.add(ports.KEYBOARD_COMMAND, 1, keyboard.command, "keyboard command")
    bus.add(ports.FAST_RESET, 1, FastReset(lambda: seen.append(None)), "fast reset")
    pci = PciPorts(lambda: seen.append(None))
    bus.add(ports.PCI_ADDRESS, ports.PCI_LENGTH, pci, "reset control", width=4)
    bus.add(ports.PCI_DATA, ports.PCI_LENGTH, pci.data, "PCI data", width=4)
    cmos = Cmos(lambda: datetime.datetime(2000, 2, 29, tzinfo=datetime.UTC), 1 << 28)
    bus.add(ports.CMOS_INDEX, ports.CMOS_LENGTH, cmos, "CMOS")
    bus.add(ports.DEBUG_CONSOLE, 1, DebugConsole(sink.extend), "debug console")
    exit_port = ExitPort(seen.append)
    bus.add(ports.EXIT, ports.EXIT_LENGTH, exit_port, "exit", width=ports.EXIT_WIDTH)
    bus.add(ports.COM1, ports.COM1_LENGTH, Uart16550(sink.extend), "COM1")
    bus.add(ports.PVPANIC, 1, Pvpanic(seen.append), "pvpanic")
    bus.add(ports.TEST_BANK, ports.TEST_LENGTH, PortBank(bytearray(4)), "bank", width=4)
    bus.add(ports.TEST_FLUSH, ports.TEST_LENGTH, PageFlush(), "flush", width=4)
    bus.add(ports.TEST_BYTE_BANK, 1, BankByte(bytearray(4), 3), "byte")
    lines = InterruptLines(lambda gsi, level: seen.append((gsi, level)))
    bus.add(ports.TEST_LINES, LINES, lines, "lines")
    bus.add(0x8000, 16, Window(), "window, as if it were ports", width=8)
    pit = PitTimer(lambda: 12.5)
    bus.add(ports.PIT, ports.PIT_LENGTH, pit.registers, "8254")
    bus.add(ports.PORT_B, 1, pit.port_b, "port B")
    timer = PmTimer(lambda: 12.5)
    bus.add(ports.PM_TIMER, ports.PM_TIMER_LENGTH, timer, "PM timer", width=4)
    power = PowerManagement(None, lambda: seen.append(None))
    bus.add(ports.PM_EVENTS, ports.PM_EVENTS_LENGTH, power.events, "PM1a events", width=4)
    bus.add(ports.PM_CONTROL, ports.PM_CONTROL_LENGTH, power.control, "PM1a control", width=2)
    bus.add(ports.POST, 1, PostCode(), "POST codes")
    fw_cfg = FwCfg(lambda: with_directory({0: item_of(b"QEMU")}, {"f": b"12"}), Memory(64))
    bus.add(ports.FW_CFG, ports.FW_CFG_LENGTH, fw_cfg.registers, "fw_cfg", width=2)
    bus.add(ports.FW_CFG_DMA, ports.FW_CFG_DMA_LENGTH, fw_cfg.dma, "fw_cfg DMA", width=4)
    return bus


_PLACES = [
    port
    for present in whole_bus().ranges
    for port in range(max(present.start - 4, 0), present.end + 1)
]
_addresses = st.one_of(st.sampled_from(_PLACES), st.integers(0, 0xFFFF))
_sizes = st.sampled_from([1, 2, 4, 8])


@given(st.lists(st.tuples(_addresses, _sizes, st.binary(min_size=8, max_size=8), st.booleans())))
def test_any_access_on_the_bus(accesses: list[tuple[int, int, bytes, bool]]) -> None:
    bus = whole_bus()
    for address, size, data, is_write in accesses:
        if is_write:
            bus.write(address, size, int.from_bytes(data[:size], "little"))
        else:
            assert 0 <= bus.read(address, size) < 1 << 8 * size


@given(st.lists(st.tuples(_addresses, st.sampled_from([1, 2, 4]), st.binary(max_size=12))))
def test_any_string_io_on_the_bus(accesses: list[tuple[int, int, bytes]]) -> None:
    bus = whole_bus()
    for port, size, data in accesses:
        count = len(data) // size
        bus.handle_out(port, size, count, data[: size * count])
        assert len(bus.handle_in(port, size, count)) == size * count


@given(
    st.integers(0, 20),
    st.lists(st.tuples(st.integers(0, 300), _sizes, st.integers(0, (1 << 64) - 1), st.booleans())),
)
def test_any_access_to_a_device_itself(
    which: int, accesses: list[tuple[int, int, int, bool]]
) -> None:
    """Devices do not rely on the bus to keep offsets and sizes reasonable."""
    ranges = whole_bus().ranges
    device = ranges[which % len(ranges)].device
    for offset, size, value, is_write in accesses:
        if is_write:
            device.write(offset, size, value & (1 << 8 * size) - 1)
        else:
            assert 0 <= device.read(offset, size) < 1 << 8 * size
