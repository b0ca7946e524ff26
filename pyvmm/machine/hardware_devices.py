# SPDX-License-Identifier: MIT
"""Devices of the hardware that a machine is asked to have (`pyvmm.machine.hardware`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pyvmm.errors import UsageError
from pyvmm.machine.virtio.mmio import FIRST_GSI, place_mmio
from pyvmm.memory.layout import VIRTIO_GPA, VIRTIO_STRIDE

if TYPE_CHECKING:
    from pyvmm.machine.device_choice import DeviceChoice
    from pyvmm.machine.hardware import Hardware
    from pyvmm.machine.virtio.queue_handler import VirtioDevice

GSIS = (FIRST_GSI, 10, 11, 12, 14, 15, *range(16, 24))
"""GSI of each virtio device that is reached over MMIO: those of an 8259 first."""


def with_hardware(choice: DeviceChoice, hardware: Hardware, stack: ExitStack) -> DeviceChoice:
    """Add the devices of `hardware` to a choice; `stack` gets what they own.

    Raises `UsageError` where there is no room for one, and whatever opening a file raises.
    """
    devices = tuple(_virtio(hardware, stack))
    if len(devices) > len(GSIS):
        raise UsageError(
            f"make a machine with {len(devices)} virtio devices",
            f"there are interrupts for {len(GSIS)}",
            "give fewer",
        )
    added = (
        partial(place_mmio, device, gpa=VIRTIO_GPA + number * VIRTIO_STRIDE, gsi=gsi)
        for number, (device, gsi) in enumerate(zip(devices, GSIS, strict=False))
    )
    return replace(choice, added=(*choice.added, *added))


def _virtio(hardware: Hardware, stack: ExitStack) -> Iterator[VirtioDevice]:
    for number, disk in enumerate(hardware.disks):
        from pyvmm.machine.disks.opening import open_disk
        from pyvmm.machine.virtio.block import block_device

        yield block_device(
            stack.enter_context(open_disk(disk)),
            f"disk {number}",
            serial=disk.serial,
            read_only=disk.read_only,
        )
