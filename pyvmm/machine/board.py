# SPDX-License-Identifier: MIT
"""The board: which devices a machine has, where they sit, and how they reach the machine.

Devices are pure models; this is where their effects go. All access to them is under one lock, held
for microseconds and never while waiting.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Callable, Mapping
from functools import partial

from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.cmos import Cmos
from pyvmm.devices.debug_console import DebugConsole
from pyvmm.devices.exit_port import ExitPort
from pyvmm.devices.fw_cfg import FwCfg, GuestBytes, Item
from pyvmm.devices.launch_port import LaunchPort
from pyvmm.devices.posting import PortPosting, PostingDevice
from pyvmm.devices.pvpanic import PanicEvent, Pvpanic
from pyvmm.devices.reset import add_resets
from pyvmm.devices.uart import Uart16550
from pyvmm.hosts.interface import PostedRing
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.ending import Ending, EndingKind, ending_of_status


class Board:
    """The devices of one machine on their buses.

    `end` is called when a device ends the run, `reset` when one resets the machine;
    `set_irq_line(gsi, level)` is None on a machine without interrupt controllers; `launched` is for
    the launch port of a private machine. `fw_cfg` makes the items that the guest is told, and `dma`
    is how it reaches guest memory; None: there is no fw_cfg.
    """

    def __init__(
        self,
        *,
        console: ConsolePort,
        memory: int,
        end: Callable[[Ending], None],
        reset: Callable[[], None],
        set_irq_line: Callable[[int, bool], None] | None,
        fw_cfg: Callable[[], Mapping[int, Item]] = dict,
        dma: GuestBytes | None = None,
        launched: Callable[[], None] | None = None,
    ) -> None:
        self.lock = threading.Lock()
        self.ports = Bus("port", 1 << 16)
        self.mmio = Bus("MMIO", 1 << 64)
        self._console = console
        self._memory = memory
        self._fw_cfg = fw_cfg
        self._dma = dma
        self._launched = launched
        self._end = end
        self._reset = reset
        self._posted: PostedRing | None = None
        self._set_irq: Callable[[bool], None] | None = None
        if set_irq_line is not None:
            self._set_irq = partial(set_irq_line, ports.COM1_IRQ)
        # Each with its first port, and what the fast path was last told that it may answer.
        self._posting: list[tuple[int, PostingDevice, tuple[PortPosting, ...]]] = []
        self._make_devices()
        console.connect(self.deliver_input)

    def _make_devices(self) -> None:
        """Every device as it is when a machine starts, in its place."""
        self.uart = Uart16550(self._console.append, self._set_irq)
        self.uart.on_room = self._refill
        debug_console = DebugConsole(self._console.append)
        told = [item[2] for item in self._posting] or [(), ()]
        self._posting = [
            (ports.COM1, self.uart, told[0]),
            (ports.DEBUG_CONSOLE, debug_console, told[1]),
        ]
        self._posting_ports: dict[int, PostingDevice] = {
            **dict.fromkeys(range(ports.COM1, ports.COM1 + ports.COM1_LENGTH), self.uart),
            ports.DEBUG_CONSOLE: debug_console,
        }
        self._add_devices(debug_console)
        if self._launched is not None:
            self.ports.add(ports.LAUNCH, 1, LaunchPort(self._launched), "launch port")

    def reset(self) -> None:
        """Put every device back to how it started. No vCPU runs; what was posted counts as said."""
        with self.lock:
            self._drain_posted()
            for present in self.ports.ranges:
                self.ports.remove(present)
            if self._set_irq is not None:
                self._set_irq(False)
            self._make_devices()
            self._refill()
            self._sync_posting()

    def _add_devices(self, debug_console: DebugConsole) -> None:
        exit_port = ExitPort(lambda value: self._end(ending_of_status(value)))
        add = self.ports.add
        add(ports.COM1, ports.COM1_LENGTH, self.uart, "16550 at COM1")
        add(ports.DEBUG_CONSOLE, 1, debug_console, "debug console")
        add(ports.EXIT, ports.EXIT_LENGTH, exit_port, "exit port", width=ports.EXIT_WIDTH)
        add(ports.CMOS_INDEX, ports.CMOS_LENGTH, Cmos(_utc_now, self._memory), "CMOS clock")
        add(ports.PVPANIC, 1, Pvpanic(self._panicked), "pvpanic")
        add_resets(self.ports, self._reset)
        if self._dma is not None:
            fw_cfg = FwCfg(self._fw_cfg, self._dma)
            add(
                ports.FW_CFG,
                ports.FW_CFG_LENGTH,
                fw_cfg.registers,
                "fw_cfg",
                width=ports.FW_CFG_WIDTH,
            )
            add(
                ports.FW_CFG_DMA,
                ports.FW_CFG_DMA_LENGTH,
                fw_cfg.dma,
                "fw_cfg DMA",
                width=ports.FW_CFG_DMA_WIDTH,
            )

    def _panicked(self, event: PanicEvent) -> None:
        # CRASH_LOADED only notes that the guest is dealing with its panic itself.
        if event is PanicEvent.PANICKED:
            self._end(Ending(EndingKind.PANICKED, "the guest reported a panic"))

    # -- posted ports --

    def attach_fast_path(self, posted: PostedRing) -> None:
        """Let the VM's fast paths answer by themselves what the devices allow."""
        with self.lock:
            self._posted = posted
            self._sync_posting()

    def drain_posted(self) -> None:
        """Hand over posted writes, in order. Takes the lock; any thread."""
        with self.lock:
            self._drain_posted()

    def _drain_posted(self) -> None:
        if self._posted is None:
            return
        for port, data in self._posted.drain():
            self._posting_ports[port].posted_write(data)

    def _sync_posting(self) -> None:
        """Tell the fast path what has changed. Under the lock."""
        if self._posted is None:
            return
        for index, (start, device, told) in enumerate(self._posting):
            posting = device.posting
            if posting is told:
                continue
            for gone in {item.offset for item in told} - {item.offset for item in posting}:
                self._posted.post_port(start + gone, write=False, read_value=None)
            for item in posting:
                self._posted.post_port(
                    start + item.offset, write=item.write, read_value=item.read_value
                )
            self._posting[index] = (start, device, posting)

    # -- access from vCPU threads --

    def port_out(self, port: int, size: int, count: int, data: bytes) -> bool:
        """A guest's write to a port; whether it may have gone to the console."""
        with self.lock:
            if port not in self._posting_ports:
                self.ports.handle_out(port, size, count, data)
                return False
            # What was posted came first.
            self._drain_posted()
            self.ports.handle_out(port, size, count, data)
            self._sync_posting()
            return True

    def port_in(self, port: int, size: int, count: int) -> bytes:
        """A guest's read of a port."""
        with self.lock:
            if port not in self._posting_ports:
                return self.ports.handle_in(port, size, count)
            self._drain_posted()
            data = self.ports.handle_in(port, size, count)
            self._sync_posting()
            return data

    def mmio_write(self, gpa: int, data: bytes) -> None:
        """A guest's write where there is no RAM."""
        with self.lock:
            self.mmio.write(gpa, len(data), int.from_bytes(data, "little"))

    def mmio_read(self, gpa: int, size: int) -> bytes:
        """A guest's read where there is no RAM."""
        with self.lock:
            return self.mmio.read(gpa, size).to_bytes(size, "little")

    # -- console input --

    def deliver_input(self) -> None:
        """Give the UART what has been typed, or the end of it."""
        with self.lock:
            self._refill()
            self._sync_posting()

    def _refill(self) -> None:
        self._console.feed(self.uart.receive)
        if self._console.input_ended:
            self.uart.set_carrier(False)


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
