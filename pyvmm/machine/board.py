# SPDX-License-Identifier: MIT
"""The board: which devices a machine has, where they sit, and how they reach the machine.

Devices are pure models; this is where their effects go. All access to them is under one lock, held
for microseconds and never while waiting.
"""

from __future__ import annotations

import threading

from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.debug_console import DebugConsole
from pyvmm.devices.posting import PortPosting, PostingDevice
from pyvmm.devices.uart import Uart16550
from pyvmm.hosts.interface import PostedRing
from pyvmm.machine.console.port import ConsolePort
from pyvmm.machine.pc_devices import Wiring, add_pc_devices


class Board:
    """The devices of one machine on their buses."""

    def __init__(self, console: ConsolePort, wiring: Wiring) -> None:
        self.lock = threading.Lock()
        self.ports = Bus("port", ports.PORT_SPACE_SIZE)
        self.mmio = Bus("MMIO", 1 << 64)
        self._console = console
        self._wiring = wiring
        self._posted: PostedRing | None = None
        # Each with its first port, and what the fast path was last told that it may answer.
        self._posting: list[tuple[int, PostingDevice, tuple[PortPosting, ...]]] = []
        self._make_devices()
        console.connect(self.deliver_input)

    def _make_devices(self) -> None:
        """Every device as it is when a machine starts, in its place."""
        self.uart = Uart16550(self._console.append, self._wiring.line(ports.COM1_IRQ))
        self.uart.on_room = self._refill
        self.ports.add(ports.COM1, ports.COM1_LENGTH, self.uart, "16550 at COM1")
        consoles: list[tuple[int, int, PostingDevice]] = [
            (ports.COM1, ports.COM1_LENGTH, self.uart)
        ]
        if not self._wiring.choice.whole_test_device:
            debug_console = DebugConsole(self._console.append)
            self.ports.add(ports.DEBUG_CONSOLE, 1, debug_console, "debug console")
            consoles.append((ports.DEBUG_CONSOLE, 1, debug_console))
        told = [item[2] for item in self._posting] or [()] * len(consoles)
        self._posting = [
            (start, device, before)
            for (start, _, device), before in zip(consoles, told, strict=True)
        ]
        self._posting_ports: dict[int, PostingDevice] = {
            port: device
            for start, length, device in consoles
            for port in range(start, start + length)
        }
        self._clock = add_pc_devices(self.ports, self.mmio, self._wiring)

    def reset(self) -> None:
        """Put every device back to how it started. No vCPU runs; what was posted counts as said."""
        with self.lock:
            self._drain_posted()
            for bus in (self.ports, self.mmio):
                for present in bus.ranges:
                    bus.remove(present)
            for gsi in (ports.COM1_IRQ, ports.CMOS_IRQ):
                set_line = self._wiring.line(gsi)
                if set_line is not None:
                    set_line(False)
            self._make_devices()
            self._refill()
            self._sync_posting()

    def poll_clock(self) -> float | None:
        """Let the clock interrupt if that is due; in how many seconds to come again.

        None: not before `Wiring.clock_changed` is called.
        """
        with self.lock:
            return self._clock.poll()

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

    @property
    def said(self) -> int:
        """Bytes of the console so far, with what was posted. Under the lock."""
        self._drain_posted()
        return self._console.total

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
