# SPDX-License-Identifier: MIT
"""A virtio device as a PCI function of a machine: its slot, interrupts and doorbells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyvmm.devices.pci.segment import GuardedFunction
from pyvmm.devices.placement import PlacedDevice
from pyvmm.devices.protocols import Guard
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.pci import REGISTERS_BAR, VirtioPci
from pyvmm.devices.virtio.pci_registers import MOST_QUEUES, NOTIFY, NOTIFY_STRIDE
from pyvmm.errors import UsageError
from pyvmm.hosts.interrupts import Doorbell, DoorbellPlace
from pyvmm.machine.device_interrupts import DeviceInterrupts
from pyvmm.machine.pci.bus import interrupt_of
from pyvmm.machine.pci.interrupts import Vectors
from pyvmm.machine.pci.windows import BarWindows
from pyvmm.machine.virtio.queue_handler import VirtioDevice
from pyvmm.machine.virtio.queue_server import QueueServer
from pyvmm.machine.wiring import Wiring


def place_pci(device: VirtioDevice, wiring: Wiring) -> PlacedDevice:
    """Put a virtio device into the next slot of the machine's PCI bus.

    Raises `UsageError` on a machine without PCI or interrupt controllers, when all slots are taken,
    and for a device with more queues than its notifications have room for.
    """
    name = device.name
    bus, interrupts, leases = wiring.pci, wiring.interrupts, wiring.leases
    attempt = f"give a machine the device {name}"
    if interrupts is None or not wiring.has_controllers or leases is None:
        raise UsageError(
            attempt,
            "it interrupts, and there are no interrupt controllers",
            "give --irqchip on",
        )
    if bus is None:
        raise UsageError(
            attempt, "it is for a PCI bus, and there is none", "give DeviceChoice(pci=True)"
        )
    core = VirtioCore(device.model, private=wiring.launched is not None, more=device.more)
    if core.queue_count > MOST_QUEUES:
        raise UsageError(
            attempt,
            f"it has {core.queue_count} queues; a device on PCI has at most {MOST_QUEUES}",
            "ask for fewer, or give --transport mmio",
        )
    pci = VirtioPci(core)
    function = bus.add(name, pci.space)
    gsi = interrupt_of(function.slot)
    vectors = Vectors(interrupts, name)
    pci.msix.on_vectors = vectors.change
    pci.msix.pending = vectors.is_pending
    pci.on_message = vectors.signal
    pci.on_keep = vectors.keep
    pci.on_forget = vectors.forget
    set_level = interrupts.level(gsi, name)
    if set_level is not None:
        pci.on_line = set_level
    side = PciSide(pci, function, bus.windows, interrupts, vectors)

    def backend(guard: Guard) -> QueueServer:
        function.guard = guard
        server = QueueServer(core, device.handler, side, leases, guard, name=name)

        def on_place() -> None:
            bus.windows.update(function)
            server.doorbells_changed()

        pci.on_place = on_place
        pci.on_vectors = server.interrupts_changed
        return server

    return PlacedDevice(name, pci, (), gsis=(gsi,), shares_gsis=True, backend=backend)


class PciSide:
    """The transport for the queue server: a doorbell is there while its port is decoded and the
    device runs. Under the guard."""

    def __init__(
        self,
        pci: VirtioPci,
        function: GuardedFunction,
        windows: BarWindows,
        interrupts: DeviceInterrupts,
        vectors: Vectors,
    ) -> None:
        self._pci = pci
        self._core = pci.core
        self._vectors = vectors
        self._function = function
        self._windows = windows
        self._interrupts = interrupts
        self._bells: dict[int, tuple[DoorbellPlace, Doorbell]] = {}

    def doorbells(self, wanted: Sequence[int]) -> Mapping[int, Doorbell]:
        """Have doorbells for the queues that are wanted, where their ports are; close others."""
        places = self._places(wanted)
        for queue, (place, bell) in [*self._bells.items()]:
            if places.get(queue) != place:
                del self._bells[queue]
                self._interrupts.give_back(bell)
        for queue, place in places.items():
            if queue not in self._bells:
                try:
                    bell = self._interrupts.doorbell(place, self._function.name)
                except UsageError:
                    # Another function has left its own there, and is about to close it. Until this
                    # one starts again its registers are told by exits.
                    continue
                self._bells[queue] = (place, bell)
        return {queue: bell for queue, (_, bell) in self._bells.items()}

    def interrupt_eventfd(self, queue: int) -> int | None:
        """The eventfd of a queue's message; None where it has none."""
        vector = self._pci.queue_vector(queue)
        number = -1 if vector is None else self._vectors.message(vector).fileno()
        return None if number < 0 else number

    def _places(self, wanted: Sequence[int]) -> Mapping[int, DoorbellPlace]:
        start = self._windows.start(self._function, REGISTERS_BAR)
        if start is None:
            return {}
        size = 4 if Feature.NOTIFICATION_DATA in Feature(self._core.features) else 2
        return {
            queue: DoorbellPlace(start + NOTIFY + NOTIFY_STRIDE * queue, size, is_port=True)
            for queue in wanted
        }
