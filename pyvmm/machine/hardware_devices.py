# SPDX-License-Identifier: MIT
"""Devices of the hardware that a machine is asked to have (`pyvmm.machine.hardware`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pyvmm.devices.placement import PlacedDevice
from pyvmm.devices.virtio.features import Feature
from pyvmm.errors import UsageError
from pyvmm.machine.hardware import RingFeature, Transport
from pyvmm.machine.virtio.mmio import FIRST_GSI, place_mmio
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import VIRTIO_GPA, VIRTIO_STRIDE

if TYPE_CHECKING:
    from pyvmm.machine.device_choice import DeviceChoice
    from pyvmm.machine.disks.failures import MachineDisks
    from pyvmm.machine.hardware import Hardware, NetCard
    from pyvmm.machine.network.cards import MachineCards
    from pyvmm.machine.virtio.queue_handler import VirtioDevice
    from pyvmm.net.frames import Wire

DeviceMaker = Callable[[Wiring], PlacedDevice]

_RINGS = {
    RingFeature.PACKED: Feature.PACKED,
    RingFeature.NOTIFICATION_DATA: Feature.NOTIFICATION_DATA,
}
GSIS = (FIRST_GSI, 10, 11, 12, 14, 15, *range(16, 24))
"""GSI of each virtio device that is reached over MMIO: those of an 8259 first."""


def with_hardware(
    choice: DeviceChoice,
    hardware: Hardware,
    stack: ExitStack,
    disks: MachineDisks,
    wires: Sequence[Wire] = (),
    *,
    cards: MachineCards | None = None,
    against_vhost: str = "",
) -> DeviceChoice:
    """Add the devices of `hardware` to a choice; `stack` gets what they own, `disks` and `cards`
    (None: without any) these.

    `wires` are its cards', which stay their owner's. `against_vhost` is what speaks against
    vhost-net in this machine, "" for nothing.

    Raises `UsageError` where there is no room for one, and whatever opening a file raises.
    """
    more = Feature(0)
    for feature in hardware.rings:
        more |= _RINGS[feature]
    if Feature.PACKED in more:
        against_vhost = against_vhost or "its rings are packed, which it does not know"
    wired = tuple(zip(hardware.cards, wires, strict=True))
    made = (*_virtio(hardware, stack, disks), *_network(wired, stack, cards, against_vhost))
    devices = tuple(one._replace(more=one.more | more) for one in made)
    make = _on_pci if hardware.transport is Transport.PCI else _over_mmio
    return replace(choice, added=(*choice.added, *make(devices)))


def _on_pci(devices: Sequence[VirtioDevice]) -> Iterator[DeviceMaker]:
    from pyvmm.machine.pci.function import place_pci

    return (partial(place_pci, device) for device in devices)


def _over_mmio(devices: Sequence[VirtioDevice]) -> Iterator[DeviceMaker]:
    if len(devices) > len(GSIS):
        raise UsageError(
            f"make a machine with {len(devices)} virtio devices over MMIO",
            f"there are interrupts for {len(GSIS)}",
            "leave --transport mmio out, or give fewer",
        )
    return (
        partial(place_mmio, device, gpa=VIRTIO_GPA + number * VIRTIO_STRIDE, gsi=gsi)
        for number, (device, gsi) in enumerate(zip(devices, GSIS, strict=False))
    )


def _virtio(hardware: Hardware, stack: ExitStack, disks: MachineDisks) -> Iterator[VirtioDevice]:
    for number, disk in enumerate(hardware.disks):
        from pyvmm.machine.disks.failures import FailurePolicy, MachineDisk
        from pyvmm.machine.disks.opening import open_disk
        from pyvmm.machine.virtio.block import block_device

        name = f"disk {number}"
        store = stack.enter_context(open_disk(disk))
        disks.disks.append(MachineDisk(name, disk, store.size))
        yield block_device(
            store,
            name,
            serial=disk.serial,
            read_only=disk.read_only,
            queues=disk.queues,
            policy=FailurePolicy(disks, name, disk.on_io_error),
        )
    if hardware.rng:
        from pyvmm.machine.virtio.rng import rng_device

        yield rng_device()
    if hardware.balloon:
        from pyvmm.machine.virtio.balloon import balloon_device

        yield balloon_device()
    if hardware.shares:
        from pyvmm.machine.virtio.p9 import share_devices

        yield from share_devices(hardware.shares, stack)
    if hardware.ports:
        from pyvmm.machine.virtio.console import console_device

        yield console_device(hardware.ports, stack)
    if hardware.vsock is not None:
        from pyvmm.machine.virtio.vsock import vsock_device

        yield vsock_device(hardware.vsock, stack)


def _network(
    wired: Sequence[tuple[NetCard, Wire]],
    stack: ExitStack,
    cards: MachineCards | None,
    against_vhost: str,
) -> Iterator[VirtioDevice]:
    for number, (card, wire) in enumerate(wired):
        from pyvmm.machine.network.vhost_pairs import open_pairs
        from pyvmm.machine.virtio.net import net_device

        vhost = open_pairs(card, wire, number, stack, against=against_vhost)
        device = net_device(card, wire, number, vhost)
        assert cards is not None
        cards.add(card, wire, device)
        yield device
