# SPDX-License-Identifier: MIT
"""Registers of a virtio device over MMIO (virtio 1.2, section 4.2), version 2.

Queue registers take values only between FEATURES_OK and DRIVER_OK, and only of a queue that is not
ready; a queue that becomes ready is looked at once, as a whole. Status 0 resets everything. While
the backend is at work on guest memory the status keeps what it was; it reads 0 when that has ended.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyvmm.devices.virtio.split_ring import QueuePlace
from pyvmm.errors import UsageError
from pyvmm.memory.layout import VIRTIO_STRIDE

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedVirtio

LENGTH: Final = VIRTIO_STRIDE
"""Length of the registers in bytes."""
CONFIG: Final = 0x100
WIDTH: Final = 8
VERSION_1: Final = 1 << 32
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


class DeviceStatus(enum.IntFlag):
    """Bits of the status register."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 0x40
    FAILED = 0x80


_ADDRESSES: Final = {
    Register.DESCRIPTORS_LOW: ("descriptors", 0),
    Register.DESCRIPTORS_HIGH: ("descriptors", 32),
    Register.DRIVER_LOW: ("driver", 0),
    Register.DRIVER_HIGH: ("driver", 32),
    Register.DEVICE_LOW: ("device", 0),
    Register.DEVICE_HIGH: ("device", 32),
}
_NO_SHARED_MEMORY: Final = frozenset(
    {
        Register.SHARED_LENGTH_LOW,
        Register.SHARED_LENGTH_HIGH,
        Register.SHARED_BASE_LOW,
        Register.SHARED_BASE_HIGH,
    }
)
_DRIVER_S: Final = ~DeviceStatus.NEEDS_RESET & 0xCF


class Interrupt(enum.IntFlag):
    """Bits of the interrupt status: reasons for the line to be up."""

    USED_BUFFER = 1
    CONFIGURATION = 2


@dataclass(slots=True)
class Queue:
    """A queue as its registers have it, and how far the device is in its rings.

    `available` counts chains that are done with, so that those under way are taken again by who
    restores a saved one; `used` counts entries written. Both wrap at 16 bits.
    """

    place: QueuePlace
    ready: bool = False
    available: int = 0
    used: int = 0


class VirtioMmio:
    """A virtio device's registers. Pure; the guard is its owner's.

    `config` is its configuration space, `features` what it offers beside VERSION_1, `sizes` the
    most descriptors of each queue. Callbacks, all called under the guard: `on_change` when a queue
    may have something to be done, `on_interrupt` when there is a reason for one, `on_reset` to let
    go of the line and of what is under way, `on_restore` to look at everything anew.
    """

    def __init__(
        self,
        device_id: int,
        features: int,
        config: bytes,
        sizes: Sequence[int],
    ) -> None:
        self._device_id = device_id
        self._features = features | VERSION_1
        self._config = config
        self._sizes = tuple(sizes)
        self.on_change: Callable[[], None] = _nothing
        self.on_interrupt: Callable[[], None] = _nothing
        self.on_reset: Callable[[], None] = _nothing
        self.on_restore: Callable[[], None] = _nothing
        self.epoch = 0
        """Number of resets: what was begun in another one must not be finished."""
        self._busy = False
        self._resetting = DeviceStatus(0)
        self._forget()

    def _forget(self) -> None:
        self._status = DeviceStatus(0)
        self._device_features_select = 0
        self._driver_features_select = 0
        self._driver_features = 0
        self._queue_select = 0
        self._interrupt = Interrupt(0)
        self._queues = tuple(Queue(QueuePlace(size, 0, 0, 0)) for size in self._sizes)

    # -- the guest's side --

    def read(self, offset: int, size: int) -> int:
        """A register whole, or any bytes of the configuration; 0 for everything else."""
        if offset >= CONFIG:
            at = offset - CONFIG
            return int.from_bytes(self._config[at : at + size], "little")
        if size != 4 or offset % 4:
            return 0
        return self._read_register(offset)

    def _read_register(self, offset: int) -> int:
        queue = self._selected
        values: dict[int, int] = {
            Register.MAGIC: _MAGIC,
            Register.VERSION: _VERSION,
            Register.DEVICE_ID: self._device_id,
            Register.VENDOR: _VENDOR,
            Register.DEVICE_FEATURES: _half(self._features, self._device_features_select),
            Register.QUEUE_SIZE_MAX: 0 if queue is None else self._sizes[self._queue_select],
            Register.QUEUE_READY: int(queue is not None and queue.ready),
            Register.INTERRUPT_STATUS: self._interrupt,
            Register.STATUS: self._resetting or self._status,
        }
        if offset in _NO_SHARED_MEMORY:
            return _ALL_ONES
        return values.get(offset, 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """Take a register's value where this is the time for it."""
        if size != 4 or offset % 4 or offset >= CONFIG:
            return
        if offset == Register.STATUS:
            self._write_status(value)
        elif offset == Register.DEVICE_FEATURES_SELECT:
            self._device_features_select = value
        elif offset == Register.DRIVER_FEATURES_SELECT:
            self._driver_features_select = value
        elif offset == Register.DRIVER_FEATURES:
            self._write_features(value)
        elif offset == Register.QUEUE_SELECT:
            self._queue_select = value
        elif offset == Register.QUEUE_NOTIFY:
            self.on_change()
        elif offset == Register.INTERRUPT_ACK:
            self._interrupt &= ~Interrupt(value & 3)
        else:
            self._write_queue(offset, value)

    @property
    def _selected(self) -> Queue | None:
        return self._queues[self._queue_select] if self._queue_select < len(self._queues) else None

    def _write_features(self, value: int) -> None:
        negotiating = DeviceStatus.DRIVER in self._status and not (
            self._status & DeviceStatus.FEATURES_OK
        )
        if negotiating and self._driver_features_select < 2:
            shift = 32 * self._driver_features_select
            self._driver_features &= ~(_ALL_ONES << shift)
            self._driver_features |= value << shift

    def _write_queue(self, offset: int, value: int) -> None:
        queue = self._selected
        setting_up = (
            self._status
            & (DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK | DeviceStatus.NEEDS_RESET)
            == DeviceStatus.FEATURES_OK
        )
        if queue is None or not setting_up:
            return
        if offset == Register.QUEUE_READY:
            if not value & 1:
                queue.ready = False
            elif queue.place.is_possible and queue.place.size <= self._sizes[self._queue_select]:
                queue.ready = True
            else:
                self.fail()
        elif not queue.ready and offset == Register.QUEUE_SIZE:
            queue.place = queue.place._replace(size=value)
        elif not queue.ready and offset in _ADDRESSES:
            name, shift = _ADDRESSES[Register(offset)]
            kept = getattr(queue.place, name) & ~(_ALL_ONES << shift)
            queue.place = queue.place._replace(**{name: kept | value << shift})

    def _write_status(self, value: int) -> None:
        if not value:
            self.reset()
            return
        if self._resetting:
            return
        new = DeviceStatus(value & _DRIVER_S) & ~self._status
        if DeviceStatus.FEATURES_OK in new and (
            self._driver_features & ~self._features or not self._driver_features & VERSION_1
        ):
            new &= ~DeviceStatus.FEATURES_OK
        if not (self._status | new) & DeviceStatus.FEATURES_OK:
            new &= ~DeviceStatus.DRIVER_OK
        self._status |= new
        if DeviceStatus.DRIVER_OK in new:
            self.on_change()

    # -- the machine's side --

    def reset(self) -> None:
        """Forget everything; the status reads 0 when what is under way has ended."""
        if self._busy:
            self._resetting = self._resetting or self._status
        self.epoch += 1
        self._forget()
        self.on_reset()

    @property
    def is_resetting(self) -> bool:
        """True while a reset waits for the backend."""
        return bool(self._resetting)

    def begin(self) -> int:
        """The backend works on guest memory from here on. Return the epoch that it does so in."""
        self._busy = True
        return self.epoch

    def end(self) -> None:
        """It does no more."""
        self._busy = False
        self._resetting = DeviceStatus(0)

    def queue(self, number: int) -> Queue | None:
        """The queue, where it is one to work on: ready, and its driver too."""
        working = self._status & (DeviceStatus.DRIVER_OK | DeviceStatus.NEEDS_RESET)
        queue = self._queues[number]
        return queue if working == DeviceStatus.DRIVER_OK and queue.ready else None

    def interrupt(self, reason: Interrupt) -> None:
        """There is a reason for an interrupt."""
        self._interrupt |= reason
        self.on_interrupt()

    @property
    def interrupt_status(self) -> int:
        """Reasons for which the line is to be up."""
        return self._interrupt

    def fail(self) -> None:
        """The device needs a reset: nothing goes on before that (2.1.2)."""
        told = DeviceStatus.DRIVER_OK in self._status
        self._status |= DeviceStatus.NEEDS_RESET
        if told:
            self.interrupt(Interrupt.CONFIGURATION)

    def save(self) -> SavedVirtio:
        """The state; chains under way are in it as chains that are still available."""
        from pyvmm.devices.saved_values import SavedQueue, SavedVirtio

        return SavedVirtio(
            status=int(self._status),
            selects=(
                self._device_features_select,
                self._driver_features_select,
                self._queue_select,
            ),
            driver_features=self._driver_features,
            interrupt=int(self._interrupt),
            queues=tuple(
                SavedQueue(*queue.place, queue.ready, queue.available, queue.used)
                for queue in self._queues
            ),
        )

    def restore(self, value: SavedVirtio) -> None:
        """Be as the device that `value` was saved from, and look at each queue once.

        Raises `UsageError`, before anything is changed, for one with other queues.
        """
        if len(value.queues) != len(self._sizes):
            raise UsageError(
                "restore a virtio device",
                f"it has {len(self._sizes)} queues, and the one that was saved {len(value.queues)}",
                "make the machine with the same devices",
            )
        self.epoch += 1
        self._status = DeviceStatus(value.status)
        device, driver, queue = value.selects
        self._device_features_select, self._driver_features_select = device, driver
        self._queue_select = queue
        self._driver_features = value.driver_features
        self._interrupt = Interrupt(value.interrupt)
        self._queues = tuple(
            Queue(
                QueuePlace(saved.size, saved.descriptors, saved.driver, saved.device),
                saved.ready,
                saved.available,
                saved.used,
            )
            for saved in value.queues
        )
        self.on_restore()


def _nothing() -> None:
    """Be no callback."""


def _half(features: int, select: int) -> int:
    return features >> 32 * select & _ALL_ONES if select < 2 else 0
