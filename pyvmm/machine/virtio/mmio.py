# SPDX-License-Identifier: MIT
"""virtio devices over MMIO in a machine: their registers, doorbells, and interrupt line."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from pyvmm.devices.placement import PlacedDevice, Space, Window
from pyvmm.devices.protocols import Guard
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.mmio import LENGTH, WIDTH, Register, VirtioMmio
from pyvmm.errors import UsageError
from pyvmm.hosts.interrupts import Doorbell, DoorbellPlace
from pyvmm.machine.virtio.queue_handler import VirtioDevice
from pyvmm.machine.virtio.queue_server import QueueServer
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import VIRTIO_GPA

FIRST_GSI = 5
HID = "LNRO0005"
"""ACPI hardware ID of a virtio device over MMIO (Linux, drivers/virtio/virtio_mmio.c)."""
RESET_PATIENCE = 1.0
"""Seconds that the driver's reset waits for what is under way; afterwards its status tells."""


def place_mmio(
    device: VirtioDevice, wiring: Wiring, *, gpa: int = VIRTIO_GPA, gsi: int = FIRST_GSI
) -> PlacedDevice:
    """Place a virtio device at `gpa`, with a level line to `gsi`; for `DeviceChoice.added`.

    The guest's notifications are doorbells, so they cost no exit to Python. Raises `UsageError` on
    a machine without interrupt controllers, and where a doorbell is another device's.
    """
    name = device.name
    leases, line = wiring.leases, wiring.line(gsi, name)
    if wiring.interrupts is None or leases is None or line is None:
        raise UsageError(
            f"give a machine the device {name}",
            "it interrupts, and there are no interrupt controllers",
            "leave --irqchip off out",
        )
    core = VirtioCore(device.model, more=device.more)
    registers = VirtioMmio(core)
    registers.on_line = line
    bells = {
        queue: wiring.interrupts.doorbell(
            DoorbellPlace(gpa + Register.QUEUE_NOTIFY, 4, is_port=False, value=queue), name
        )
        for queue in range(core.queue_count)
    }
    port = MmioPort(registers)

    def backend(guard: Guard) -> QueueServer:
        port.guard = guard
        return QueueServer(core, device.handler, MmioSide(bells), leases, guard, name=name)

    # A driver's reset waits: so the port takes the guard by itself, and lets go of it then.
    window = Window(Space.MMIO, gpa, LENGTH, port, WIDTH, serialised=False)
    return PlacedDevice(name, registers, (window,), gsis=(gsi,), backend=backend, hid=HID)


class MmioSide:
    """The transport for the queue server: doorbells that are there from the beginning to the end.

    With NOTIFICATION_DATA what is written is no queue's number alone, and rings none: the registers
    tell.
    """

    def __init__(self, bells: Mapping[int, Doorbell]) -> None:
        self._bells = bells

    def doorbells(self, wanted: Sequence[int]) -> Mapping[int, Doorbell]:
        """All of them: those that are not wanted are drained."""
        del wanted
        return self._bells


class MmioPort:
    """The registers as the guest's accesses get to them, each under the guard.

    A driver's reset does not return before the workers have ended what is under way, since Linux's
    driver does not look at the status for that (``drivers/virtio/virtio_mmio.c``, vm_reset).
    """

    def __init__(self, registers: VirtioMmio) -> None:
        self._registers = registers
        self.guard: Guard = threading.Lock()
        self._ended = threading.Event()
        registers.core.on_ended = self._ended.set

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        with self.guard:
            return self._registers.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; the status waits for the end of a reset."""
        with self.guard:
            self._registers.write(offset, size, value)
            waits = offset == Register.STATUS and self._registers.core.is_resetting
            if waits:
                self._ended.clear()
        if waits:
            self._ended.wait(RESET_PATIENCE)
