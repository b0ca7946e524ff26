# SPDX-License-Identifier: MIT
"""Devices of the hardware that a machine is asked to have (`pyvmm.machine.hardware`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pyvmm.errors import UsageError
from pyvmm.machine.virtio.mmio_block import BLOCK_GSI, place_block
from pyvmm.memory.layout import VIRTIO_GPA, VIRTIO_STRIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyvmm.devices.placement import PlacedDevice
    from pyvmm.machine.device_choice import DeviceChoice
    from pyvmm.machine.hardware import Hardware
    from pyvmm.machine.wiring import Wiring

GSIS = (BLOCK_GSI, 10, 11, 12, 14, 15, *range(16, 24))
"""GSI of each virtio device that is reached over MMIO: those of an 8259 first."""


def with_hardware(choice: DeviceChoice, hardware: Hardware, stack: ExitStack) -> DeviceChoice:
    """Add the devices of `hardware` to a choice; `stack` gets what they own.

    Raises `UsageError` where there is no room for one, and whatever opening a file raises.
    """
    return replace(choice, added=(*choice.added, *_disks(hardware, stack)))


def _disks(hardware: Hardware, stack: ExitStack) -> Iterator[Callable[[Wiring], PlacedDevice]]:
    from pyvmm.machine.disks.opening import open_disk

    if len(hardware.disks) > len(GSIS):
        raise UsageError(
            f"make a machine with {len(hardware.disks)} disks",
            f"there are interrupts for {len(GSIS)}",
            "give fewer",
        )
    for number, (disk, gsi) in enumerate(zip(hardware.disks, GSIS, strict=False)):
        yield partial(
            place_block,
            stack.enter_context(open_disk(disk)),
            gpa=VIRTIO_GPA + number * VIRTIO_STRIDE,
            gsi=gsi,
            name=f"disk {number}",
            serial=disk.serial,
            read_only=disk.read_only,
        )
