# SPDX-License-Identifier: MIT
"""Registers of a virtio device on PCI (virtio 1.2, 4.1.4.3 to 4.1.4.6): all of them in one I/O BAR.

::

    0x00  common configuration      0x44  the device's own, 60 bytes at the most
    0x40  ISR status                0x80  notifications, 4 bytes a queue

Pure. An access of another width than its field's reads as 0, and is lost: no driver may make it
(4.1.3.1). So is what is about a queue that is not there.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from pyvmm.devices.virtio.core import VirtioCore

LENGTH: Final = 0x100
"""Bytes of all of them, the size of the BAR."""
WIDTH: Final = 4
ISR: Final = 0x40
DEVICE_CONFIG: Final = 0x44
MOST_CONFIG: Final = 0x3C
NOTIFY: Final = 0x80
NOTIFY_STRIDE: Final = 4
MOST_QUEUES: Final = (LENGTH - NOTIFY) // NOTIFY_STRIDE
NO_VECTOR: Final = 0xFFFF
_WORD: Final = 0xFFFF_FFFF


class Register(enum.IntEnum):
    """Fields of the common configuration, by offset."""

    DEVICE_FEATURES_SELECT = 0x00
    DEVICE_FEATURES = 0x04
    DRIVER_FEATURES_SELECT = 0x08
    DRIVER_FEATURES = 0x0C
    CONFIG_VECTOR = 0x10
    QUEUES = 0x12
    STATUS = 0x14
    GENERATION = 0x15
    QUEUE_SELECT = 0x16
    QUEUE_SIZE = 0x18
    QUEUE_VECTOR = 0x1A
    QUEUE_ENABLE = 0x1C
    QUEUE_NOTIFY_OFFSET = 0x1E
    QUEUE_DESCRIPTORS = 0x20
    QUEUE_DRIVER = 0x28
    QUEUE_DEVICE = 0x30


class Isr(enum.IntFlag):
    """Bits of the ISR status."""

    QUEUE = 1
    CONFIGURATION = 2


def _nothing() -> None:
    """Do nothing."""


class VirtioPciRegisters:
    """The registers of `core`'s device; `vectors` is the number that MSI-X has.

    `on_isr` is called when the ISR status has been read, and with that cleared; `on_vector` when a
    queue was given a vector.
    """

    def __init__(self, core: VirtioCore, vectors: int) -> None:
        self._core = core
        self._vectors = vectors
        self.on_isr: Callable[[], None] = _nothing
        self.on_vector: Callable[[], None] = _nothing
        self.forget()

    def forget(self) -> None:
        """Be as after a reset of the device."""
        self.isr = Isr(0)
        self.config_vector = NO_VECTOR
        self.queue_vectors = [NO_VECTOR] * self._core.queue_count
        self.selects = (0, 0, 0)

    # -- reading --

    def read(self, offset: int, size: int) -> int:
        """Read a register; the device's configuration in any width."""
        if offset < ISR:
            return self._read_common(offset, size)
        if offset == ISR:
            isr, self.isr = self.isr, Isr(0)
            self.on_isr()
            return int(isr)
        if DEVICE_CONFIG <= offset < NOTIFY:
            return self._core.read_config(offset - DEVICE_CONFIG, size)
        return 0

    def _read_common(self, offset: int, size: int) -> int:
        if offset >= Register.QUEUE_DESCRIPTORS:
            return self._read_address(offset) if size == 4 and not offset % 4 else 0
        if offset >= Register.QUEUE_SIZE:
            return self._read_queue(offset) if size == 2 else 0
        core = self._core
        device_word, driver_word, number = self.selects
        value = 0
        match offset, size:
            case Register.DEVICE_FEATURES_SELECT, 4:
                value = device_word
            case Register.DEVICE_FEATURES, 4:
                value = core.offered(device_word)
            case Register.DRIVER_FEATURES_SELECT, 4:
                value = driver_word
            case Register.DRIVER_FEATURES, 4:
                value = core.acknowledged(driver_word)
            case Register.CONFIG_VECTOR, 2:
                value = self.config_vector
            case Register.QUEUES, 2:
                value = core.queue_count
            case Register.STATUS, 1:
                value = core.status
            case Register.GENERATION, 1:
                value = core.generation & 0xFF
            case Register.QUEUE_SELECT, 2:
                value = number
        return value

    def _read_queue(self, offset: int) -> int:
        number = self.selects[2]
        queue = self._core.queue(number)
        if queue is None:
            return NO_VECTOR if offset == Register.QUEUE_VECTOR else 0
        values: dict[int, int] = {
            Register.QUEUE_SIZE: queue.place.size,
            Register.QUEUE_VECTOR: self.queue_vectors[number],
            Register.QUEUE_ENABLE: int(queue.is_enabled),
            Register.QUEUE_NOTIFY_OFFSET: number,
        }
        return values.get(offset, 0)

    def _read_address(self, offset: int) -> int:
        queue = self._core.queue(self.selects[2])
        part, half = divmod(offset - Register.QUEUE_DESCRIPTORS, 8)
        if queue is None or part > 2:
            return 0
        return queue.place[1 + part] >> 8 * half & _WORD

    # -- writing --

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; the device's configuration in any width."""
        if offset < ISR:
            self._write_common(offset, size, value)
        elif DEVICE_CONFIG <= offset < NOTIFY:
            self._core.write_config(offset - DEVICE_CONFIG, size, value)
        elif offset >= NOTIFY and not offset % NOTIFY_STRIDE:
            self._core.notify((offset - NOTIFY) // NOTIFY_STRIDE)

    def _write_common(self, offset: int, size: int, value: int) -> None:
        if offset >= Register.QUEUE_DESCRIPTORS:
            if size == 4 and not offset % 4:
                self._write_address(offset, value)
            return
        core = self._core
        device_word, driver_word, number = self.selects
        queue = core.queue(number)
        match offset, size:
            case Register.DEVICE_FEATURES_SELECT, 4:
                self.selects = (value, driver_word, number)
            case Register.DRIVER_FEATURES_SELECT, 4:
                self.selects = (device_word, value, number)
            case Register.DRIVER_FEATURES, 4:
                core.acknowledge(driver_word, value)
            case Register.CONFIG_VECTOR, 2:
                self.config_vector = self._vector(value)
            case Register.STATUS, 1:
                core.write_status(value)
            case Register.QUEUE_SELECT, 2:
                self.selects = (device_word, driver_word, value)
            case Register.QUEUE_SIZE, 2 if queue is not None:
                queue.set_size(value)
            case Register.QUEUE_VECTOR, 2 if queue is not None:
                self.queue_vectors[number] = self._vector(value)
                self.on_vector()
            case Register.QUEUE_ENABLE, 2 if value == 1:
                core.enable(number)

    def _vector(self, value: int) -> int:
        """The vector of that number; NO_VECTOR reads back where there is none (4.1.5.1.2)."""
        return value if value < self._vectors else NO_VECTOR

    def _write_address(self, offset: int, value: int) -> None:
        queue = self._core.queue(self.selects[2])
        part, half = divmod(offset - Register.QUEUE_DESCRIPTORS, 8)
        if queue is not None and part <= 2:
            queue.set_address(part, value, shift=8 * half, bits=32)
