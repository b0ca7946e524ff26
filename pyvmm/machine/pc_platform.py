# SPDX-License-Identifier: MIT
"""The platform of a PC: its devices and their places (docs/machine.md). Nothing else knows them."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator
from functools import partial

from pyvmm.devices import pc_testdev, ports
from pyvmm.devices.cmos import Cmos
from pyvmm.devices.debug_console import DebugConsole
from pyvmm.devices.exit_port import ExitPort
from pyvmm.devices.fw_cfg import FwCfg, GuestBytes
from pyvmm.devices.launch_port import LaunchPort
from pyvmm.devices.pc_testdev import PcTestDevice
from pyvmm.devices.pci_ports import PciPorts
from pyvmm.devices.placement import PlacedDevice, Platform, Space, Window
from pyvmm.devices.post_code import PostCode
from pyvmm.devices.pvpanic import PanicEvent, Pvpanic
from pyvmm.devices.reset import FastReset, KeyboardController
from pyvmm.devices.stateless import Stateless
from pyvmm.devices.timers import PitTimer, PmTimer
from pyvmm.devices.uart import Uart16550
from pyvmm.machine.backends import ClockTask, UartInput
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.ending import Ending, EndingKind, ending_of_status
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import TEST_WINDOW_GPA

_PORT = Space.PORT
NO_CHOICE = DeviceChoice()


def pc_platform(wiring: Wiring, choice: DeviceChoice = NO_CHOICE) -> Platform:
    """Make the platform of a PC with what the user asked for.

    Raises `UsageError` where an exit port or a device that was asked for has no room.
    """
    return Platform(tuple(_devices(wiring, choice)))


def _devices(wiring: Wiring, choice: DeviceChoice) -> Iterator[PlacedDevice]:
    yield _serial_port(wiring)
    if not choice.whole_test_device:
        console = DebugConsole(wiring.console.append)
        yield _at(ports.DEBUG_CONSOLE, 1, console, "debug console")
    yield _clock(wiring)
    panic = Pvpanic(partial(_panicked, wiring.end))
    yield _at(ports.PVPANIC, 1, panic, "pvpanic")._replace(hid="QEMU0001")
    yield _at(ports.POST, 1, PostCode(), "POST codes")
    yield _keyboard(wiring)
    yield _at(ports.FAST_RESET, 1, FastReset(wiring.reset), "fast reset")
    if wiring.pci is None:
        yield _reset_control(wiring)
    else:
        yield from wiring.pci.placed(wiring.reset)
    if not wiring.has_controllers:
        yield _pit()
    else:
        yield from _host_s_own()
    timer = PmTimer(time.monotonic)
    yield _at(ports.PM_TIMER, ports.PM_TIMER_LENGTH, timer, "PM timer", width=4)
    yield _test_device(wiring, choice)
    if wiring.dma is not None:
        yield _fw_cfg(wiring, wiring.dma)
    if wiring.launched is not None:
        # Completing a launch takes long: the port does its own.
        port = LaunchPort(wiring.launched)
        window = Window(_PORT, ports.LAUNCH, 1, port, serialised=False)
        yield PlacedDevice("launch port", port, (window,))
    yield _exit_ports(wiring, choice)
    for make in choice.added:
        yield make(wiring)


def _at(
    start: int,
    length: int,
    device: DebugConsole | FastReset | PmTimer | PostCode | Pvpanic,
    name: str,
    width: int = 1,
) -> PlacedDevice:
    """Place a device that has one range of ports, and nothing else."""
    return PlacedDevice(name, device, (Window(_PORT, start, length, device, width),))


def _serial_port(wiring: Wiring) -> PlacedDevice:
    name = "16550 at COM1"
    uart = Uart16550(wiring.console.append, wiring.line(ports.COM1_IRQ, name))
    return PlacedDevice(
        name,
        uart,
        (Window(_PORT, ports.COM1, ports.COM1_LENGTH, uart),),
        gsis=(ports.COM1_IRQ,),
        backend=partial(UartInput, wiring.console, uart),
        hid="PNP0501",
    )


def _clock(wiring: Wiring) -> PlacedDevice:
    name = "CMOS clock"
    cmos = Cmos(_utc_now, wiring.memory, wiring.line(ports.CMOS_IRQ, name))
    return PlacedDevice(
        name,
        cmos,
        (Window(_PORT, ports.CMOS_INDEX, ports.CMOS_LENGTH, cmos),),
        gsis=(ports.CMOS_IRQ,),
        backend=partial(ClockTask, cmos) if wiring.has_controllers else None,
        hid="PNP0B00",
    )


def _keyboard(wiring: Wiring) -> PlacedDevice:
    keyboard = KeyboardController(wiring.reset)
    return PlacedDevice(
        "keyboard controller",
        keyboard,
        (
            Window(_PORT, ports.KEYBOARD_DATA, 1, keyboard.data, name="keyboard data"),
            Window(_PORT, ports.KEYBOARD_COMMAND, 1, keyboard.command, name="keyboard command"),
        ),
    )


def _reset_control(wiring: Wiring) -> PlacedDevice:
    """Reset control. There is no PCI, so nobody claims the data ports: what a guest looks for there
    is told as what this machine lacks."""
    pci = PciPorts(wiring.reset)
    where = (_PORT, ports.PCI_ADDRESS, ports.PCI_LENGTH)
    return PlacedDevice("PCI ports", pci, (Window(*where, pci, ports.PCI_WIDTH, "reset control"),))


def _host_s_own() -> Iterator[PlacedDevice]:
    """Interrupt controllers and timer, which the host has: nobody else can have their places."""
    pic = [
        Window(_PORT, start, ports.PIC_LENGTH, None, name=name)
        for start, name in ((ports.PIC, "pic"), (ports.SECOND_PIC, "pic"), (ports.ELCR, "elcr"))
    ]
    yield PlacedDevice("8259A", Stateless(), tuple(pic), gsis=(ports.CASCADE_IRQ,))
    pit = (
        Window(_PORT, ports.PIT, ports.PIT_LENGTH, None, name="pit"),
        Window(_PORT, ports.PORT_B, 1, None, name="pcspk"),
    )
    yield PlacedDevice("8254", Stateless(), pit, gsis=(ports.PIT_IRQ,))


def _pit() -> PlacedDevice:
    pit = PitTimer(time.monotonic)
    return PlacedDevice(
        "8254",
        pit,
        (
            Window(_PORT, ports.PIT, ports.PIT_LENGTH, pit.registers),
            Window(_PORT, ports.PORT_B, 1, pit.port_b, name="port B"),
        ),
    )


def _test_device(wiring: Wiring, choice: DeviceChoice) -> PlacedDevice:
    device = PcTestDevice(wiring.pins("pc-testdev"))
    length = ports.TEST_LENGTH
    byte_banks = [
        Window(
            _PORT, ports.TEST_BYTE_BANK + index, 1, device.bank_byte(index),
            name="test bank, by bytes",
        )
        for index in range(length)
        if ports.TEST_BYTE_BANK + index != ports.DEBUG_CONSOLE or choice.whole_test_device
    ]  # fmt: skip
    return PlacedDevice(
        "pc-testdev",
        device,
        (
            Window(_PORT, ports.TEST_BANK, length, device.bank, 4, "test bank"),
            Window(_PORT, ports.TEST_FLUSH, length, device.flush, 4, "test flush"),
            *byte_banks,
            Window(
                _PORT, ports.TEST_LINES, pc_testdev.LINES, device.lines,
                name="test interrupt lines",
            ),
            Window(
                Space.MMIO, TEST_WINDOW_GPA, pc_testdev.WINDOW_SIZE, device.window, 8,
                "test window",
            ),
        ),
    )  # fmt: skip


def _fw_cfg(wiring: Wiring, memory: GuestBytes) -> PlacedDevice:
    fw_cfg = FwCfg(wiring.fw_cfg, memory)
    return PlacedDevice(
        "fw_cfg",
        fw_cfg,
        (
            Window(
                _PORT, ports.FW_CFG, ports.FW_CFG_LENGTH, fw_cfg.registers, ports.FW_CFG_WIDTH
            ),
            Window(
                _PORT, ports.FW_CFG_DMA, ports.FW_CFG_DMA_LENGTH, fw_cfg.dma,
                ports.FW_CFG_DMA_WIDTH, "fw_cfg DMA",
            ),
        ),
    )  # fmt: skip


def _exit_ports(wiring: Wiring, choice: DeviceChoice) -> PlacedDevice:
    port = ExitPort(lambda value: wiring.end(ending_of_status(value)))
    windows = [
        Window(_PORT, ports.EXIT, ports.EXIT_LENGTH, port, ports.EXIT_WIDTH),
        Window(_PORT, ports.DEBUG_EXIT, ports.DEBUG_EXIT_LENGTH, port, 2),
    ]
    for place in choice.exit_ports:
        end = place.start + place.length
        if not any(have.start <= place.start and end <= have.end for have in windows):
            width = 1 << (place.length.bit_length() - 1)
            windows.append(Window(_PORT, place.start, place.length, port, width))
    return PlacedDevice(
        "exit port", port, tuple(windows), hint="give isa-debug-exit another iobase, or none"
    )


def _panicked(end: Callable[[Ending], None], event: PanicEvent) -> None:
    # CRASH_LOADED only notes that the guest is dealing with its panic itself.
    if event is PanicEvent.PANICKED:
        end(Ending(EndingKind.PANICKED, "the guest reported a panic"))


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
