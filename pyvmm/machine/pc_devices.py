# SPDX-License-Identifier: MIT
"""Devices of a machine beside its consoles, and their addresses (docs/machine.md)."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from pyvmm.devices import pc_testdev, ports
from pyvmm.devices.bus import Bus, BusOverlapError
from pyvmm.devices.cmos import Cmos
from pyvmm.devices.exit_port import ExitPort
from pyvmm.devices.fw_cfg import FwCfg, GuestBytes, Item
from pyvmm.devices.launch_port import LaunchPort
from pyvmm.devices.pvpanic import PanicEvent, Pvpanic
from pyvmm.devices.reset import add_resets
from pyvmm.devices.timers import PitPorts, PmTimer, PortB
from pyvmm.errors import UsageError
from pyvmm.hosts.pit import Pit
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.ending import Ending, EndingKind, ending_of_status
from pyvmm.memory.layout import TEST_WINDOW_GPA

NO_DEVICES = DeviceChoice()


@dataclass(frozen=True, slots=True)
class Wiring:
    """Callbacks and values by which devices reach the machine.

    `memory` is the size of RAM in bytes; `end` ends the run, `reset` resets the machine.
    `set_irq_line(gsi, level)` is None on a machine without interrupt controllers. `fw_cfg` makes
    the items that the guest is told, and `dma` is how it reaches guest memory; None: there is no
    fw_cfg. `launched` is for the launch port of a private machine. `clock_changed` is called, on
    whatever thread, when the clock's next interrupt may be another.
    """

    memory: int
    end: Callable[[Ending], None]
    reset: Callable[[], None]
    set_irq_line: Callable[[int, bool], None] | None = None
    fw_cfg: Callable[[], Mapping[int, Item]] = dict
    dma: GuestBytes | None = None
    launched: Callable[[], None] | None = None
    clock_changed: Callable[[], None] = field(default=lambda: None)
    choice: DeviceChoice = NO_DEVICES

    def line(self, gsi: int) -> Callable[[bool], None] | None:
        """Return the function that sets interrupt line `gsi`; None without controllers."""
        return None if self.set_irq_line is None else partial(self.set_irq_line, gsi)


def add_pc_devices(bus: Bus, mmio: Bus, wiring: Wiring) -> Cmos:
    """Put every device that is no console in its place, as it is at a start; the clock is returned.

    Raises `UsageError` where an exit port that was asked for has no room.
    """
    cmos = Cmos(_utc_now, wiring.memory, wiring.line(ports.CMOS_IRQ), wiring.clock_changed)
    bus.add(ports.CMOS_INDEX, ports.CMOS_LENGTH, cmos, "CMOS clock")
    bus.add(ports.PVPANIC, 1, Pvpanic(partial(_panicked, wiring.end)), "pvpanic")
    add_resets(bus, wiring.reset)
    _add_timers(bus, has_pit=wiring.set_irq_line is not None)
    _add_test_device(bus, mmio, wiring)
    if wiring.dma is not None:
        fw_cfg = FwCfg(wiring.fw_cfg, wiring.dma)
        bus.add(
            ports.FW_CFG,
            ports.FW_CFG_LENGTH,
            fw_cfg.registers,
            "fw_cfg",
            width=ports.FW_CFG_WIDTH,
        )
        bus.add(
            ports.FW_CFG_DMA,
            ports.FW_CFG_DMA_LENGTH,
            fw_cfg.dma,
            "fw_cfg DMA",
            width=ports.FW_CFG_DMA_WIDTH,
        )
    if wiring.launched is not None:
        bus.add(ports.LAUNCH, 1, LaunchPort(wiring.launched), "launch port")
    _add_exit_ports(bus, wiring)
    return cmos


def _add_timers(bus: Bus, *, has_pit: bool) -> None:
    if not has_pit:
        pit = Pit()
        bus.add(ports.PIT, ports.PIT_LENGTH, PitPorts(pit, time.monotonic), "8254")
        bus.add(ports.PORT_B, 1, PortB(pit, time.monotonic), "port B")
    timer = PmTimer(time.monotonic)
    bus.add(ports.PM_TIMER, ports.PM_TIMER_LENGTH, timer, "PM timer", width=4)


def _add_test_device(bus: Bus, mmio: Bus, wiring: Wiring) -> None:
    value = bytearray(ports.TEST_LENGTH)
    bank = pc_testdev.PortBank(value)
    bus.add(ports.TEST_BANK, ports.TEST_LENGTH, bank, "test bank", width=4)
    bus.add(ports.TEST_FLUSH, ports.TEST_LENGTH, pc_testdev.PageFlush(), "test flush", width=4)
    for port in range(ports.TEST_BYTE_BANK, ports.TEST_BYTE_BANK + ports.TEST_LENGTH):
        if port != ports.DEBUG_CONSOLE or wiring.choice.whole_test_device:
            part = pc_testdev.BankByte(value, port - ports.TEST_BYTE_BANK)
            bus.add(port, 1, part, "test bank, by bytes")
    lines = pc_testdev.InterruptLines(wiring.set_irq_line)
    bus.add(ports.TEST_LINES, pc_testdev.LINES, lines, "test interrupt lines")
    window = pc_testdev.Window()
    mmio.add(TEST_WINDOW_GPA, pc_testdev.WINDOW_SIZE, window, "test window", width=8)


def _add_exit_ports(bus: Bus, wiring: Wiring) -> None:
    exit_port = ExitPort(lambda value: wiring.end(ending_of_status(value)))
    bus.add(ports.EXIT, ports.EXIT_LENGTH, exit_port, "exit port", width=ports.EXIT_WIDTH)
    bus.add(ports.DEBUG_EXIT, ports.DEBUG_EXIT_LENGTH, exit_port, "exit port", width=2)
    for place in wiring.choice.exit_ports:
        have = bus.find(place.start)
        if have is not None and have.device is exit_port and place.start + place.length <= have.end:
            continue  # It is there already.
        width = 1 << (place.length.bit_length() - 1)
        try:
            bus.add(place.start, place.length, exit_port, "exit port", width=width)
        except BusOverlapError as error:
            raise UsageError(
                f"put an exit port at {place.start:#x}",
                f"it overlaps {error.present}",
                "give another iobase, or none",
            ) from error


def _panicked(end: Callable[[Ending], None], event: PanicEvent) -> None:
    # CRASH_LOADED only notes that the guest is dealing with its panic itself.
    if event is PanicEvent.PANICKED:
        end(Ending(EndingKind.PANICKED, "the guest reported a panic"))


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
