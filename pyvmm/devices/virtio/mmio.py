# SPDX-License-Identifier: MIT
"""Registers of a virtio device over MMIO (virtio 1.2, section 4.2), version 2."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import Feature
from pyvmm.memory.layout import VIRTIO_STRIDE

if TYPE_CHECKING:
    from pyvmm.devices.virtio.saved import SavedVirtioMmio

LENGTH: Final = VIRTIO_STRIDE
"""Length of the registers in bytes."""
CONFIG: Final = 0x100
WIDTH: Final = 8
_MAGIC: Final = int.from_bytes(b"virt", "little")
_VERSION: Final = 2
_VENDOR: Final = int.from_bytes(b"PVMM", "little")
_ALL_ONES: Final = 0xFFFF_FFFF


class Register(enum.IntEnum):
    """Offsets of the registers, 4 bytes each."""

    MAGIC = 0x000
    VERSION = 0x004
    DEVICE_ID = 0x008
    VENDOR = 0x00C
    DEVICE_FEATURES = 0x010
    DEVICE_FEATURES_SELECT = 0x014
    DRIVER_FEATURES = 0x020
    DRIVER_FEATURES_SELECT = 0x024
    QUEUE_SELECT = 0x030
    QUEUE_SIZE_MAX = 0x034
    QUEUE_SIZE = 0x038
    QUEUE_READY = 0x044
    QUEUE_NOTIFY = 0x050
    INTERRUPT_STATUS = 0x060
    INTERRUPT_ACK = 0x064
    STATUS = 0x070
    DESCRIPTORS_LOW = 0x080
    DESCRIPTORS_HIGH = 0x084
    DRIVER_LOW = 0x090
    DRIVER_HIGH = 0x094
    DEVICE_LOW = 0x0A0
    DEVICE_HIGH = 0x0A4
    SHARED_LENGTH_LOW = 0x0B0
    SHARED_LENGTH_HIGH = 0x0B4
    SHARED_BASE_LOW = 0x0B8
    SHARED_BASE_HIGH = 0x0BC
    CONFIG_GENERATION = 0x0FC


_ADDRESSES: Final = {
    Register.DESCRIPTORS_LOW: (0, 0),
    Register.DESCRIPTORS_HIGH: (0, 32),
    Register.DRIVER_LOW: (1, 0),
    Register.DRIVER_HIGH: (1, 32),
    Register.DEVICE_LOW: (2, 0),
    Register.DEVICE_HIGH: (2, 32),
}
"""Part of a queue, and the lowest bit, that a register has."""
_NO_SHARED_MEMORY: Final = frozenset(
    {
        Register.SHARED_LENGTH_LOW,
        Register.SHARED_LENGTH_HIGH,
        Register.SHARED_BASE_LOW,
        Register.SHARED_BASE_HIGH,
    }
)


class Interrupt(enum.IntFlag):
    """Bits of the interrupt status: reasons for the line to be up."""

    USED_BUFFER = 1
    CONFIGURATION = 2


class VirtioMmio:
    """The registers of `core`. Pure; the guard is its owner's.

    `on_line` sets the interrupt line's level: up as long as there is a reason that the driver has
    not acknowledged. Called under the guard.
    """

    def __init__(self, core: VirtioCore) -> None:
        self.core = core
        self.on_line: Callable[[bool], None] = _to_nobody
        core.on_interrupt = self._interrupt
        core.on_reset = self._forget
        self._reasons = Interrupt(0)
        self._selects()

    def _selects(self, device: int = 0, driver: int = 0, queue: int = 0) -> None:
        self._device_features_select = device
        self._driver_features_select = driver
        self._queue_select = queue

    def _forget(self) -> None:
        self._selects()
        self._set_reasons(Interrupt(0))

    def _interrupt(self, queue: int | None) -> None:
        new = Interrupt.CONFIGURATION if queue is None else Interrupt.USED_BUFFER
        self._set_reasons(self._reasons | new)

    def _set_reasons(self, reasons: Interrupt) -> None:
        was, self._reasons = self._reasons, reasons
        if bool(was) != bool(reasons):
            self.on_line(bool(reasons))

    # -- the guest's side --

    def read(self, offset: int, size: int) -> int:
        """A register whole, or any bytes of the configuration; 0 for everything else."""
        if offset >= CONFIG:
            return self.core.read_config(offset - CONFIG, size)
        if size != 4 or offset % 4:
            return 0
        return self._read_register(offset)

    def _read_register(self, offset: int) -> int:
        core = self.core
        queue = core.queue(self._queue_select)
        values: dict[int, int] = {
            Register.MAGIC: _MAGIC,
            Register.VERSION: _VERSION,
            Register.DEVICE_ID: core.model.kind,
            Register.VENDOR: _VENDOR,
            Register.DEVICE_FEATURES: core.offered(self._device_features_select),
            Register.QUEUE_SIZE_MAX: 0 if queue is None else queue.most,
            Register.QUEUE_READY: int(queue is not None and queue.is_enabled),
            Register.INTERRUPT_STATUS: self._reasons,
            Register.STATUS: core.status,
            Register.CONFIG_GENERATION: core.generation,
        }
        if offset in _NO_SHARED_MEMORY:
            return _ALL_ONES
        return values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a register's value where this is the time for it, or bytes of the configuration."""
        core = self.core
        if offset >= CONFIG:
            core.write_config(offset - CONFIG, size, value)
        elif size != 4 or offset % 4:
            return
        elif offset == Register.STATUS:
            core.write_status(value)
        elif offset == Register.DEVICE_FEATURES_SELECT:
            self._device_features_select = value
        elif offset == Register.DRIVER_FEATURES_SELECT:
            self._driver_features_select = value
        elif offset == Register.DRIVER_FEATURES:
            core.acknowledge(self._driver_features_select, value)
        elif offset == Register.QUEUE_SELECT:
            self._queue_select = value
        elif offset == Register.QUEUE_NOTIFY:
            has_data = core.features & Feature.NOTIFICATION_DATA
            core.notify(value & 0xFFFF if has_data else value)
        elif offset == Register.INTERRUPT_ACK:
            self._set_reasons(self._reasons & ~Interrupt(value & 3))
        else:
            self._write_queue(offset, value)

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self.core.queue(self._queue_select)
        if queue is None:
            return
        if offset == Register.QUEUE_READY:
            self.core.enable(self._queue_select, enabled=bool(value & 1))
        elif offset == Register.QUEUE_SIZE:
            queue.set_size(value)
        elif offset in _ADDRESSES:
            part, shift = _ADDRESSES[Register(offset)]
            queue.set_address(part, value, shift=shift, bits=32)

    # -- the machine's side --

    @property
    def interrupt_status(self) -> int:
        """Reasons for which the line is up."""
        return self._reasons

    def reset(self) -> None:
        """Be as made."""
        self.core.reset()

    def save(self) -> SavedVirtioMmio:
        """The state, the core's with it."""
        from pyvmm.devices.virtio.saved import SavedVirtioMmio

        return SavedVirtioMmio(
            core=self.core.save(),
            selects=(
                self._device_features_select,
                self._driver_features_select,
                self._queue_select,
            ),
            interrupt=int(self._reasons),
        )

    def restore(self, value: SavedVirtioMmio) -> None:
        """Be as the device that `value` was saved from.

        Raises `UsageError`, before anything is changed, for one that is another kind of device.
        """
        self.core.restore(value.core)
        self._selects(*value.selects)
        self._reasons = Interrupt(value.interrupt)
        # Even where it is so: the controllers may have forgotten.
        self.on_line(bool(self._reasons))


def _to_nobody(level: bool) -> None:
    """Be no line."""
