# SPDX-License-Identifier: MIT
"""Core of a virtio device (virtio 1.2, sections 2 and 3): status, features, queues, configuration.

Both register maps, MMIO and PCI, are ways into it. Queue registers take values only between
FEATURES_OK and DRIVER_OK, and only of a queue that is not enabled; one that is enabled is looked at
once, as a whole. Status 0 resets everything. While the backend is at work on guest memory the
status keeps what it was; it reads 0 when that has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from pyvmm.devices.virtio.device_model import DeviceModel
from pyvmm.devices.virtio.features import NO_FEATURES, DeviceStatus, Feature
from pyvmm.devices.virtio.queue_registers import QueueRegisters
from pyvmm.devices.virtio.rings import QueueLayout, QueuePosition
from pyvmm.errors import UsageError

if TYPE_CHECKING:
    from pyvmm.devices.virtio.saved import SavedVirtioCore

QUEUES: Final = Feature.INDIRECT | Feature.EVENT_INDEX | Feature.VERSION_1
"""Features that every device offers."""
_WORD: Final = 0xFFFF_FFFF
_DRIVER_S: Final = (
    DeviceStatus.ACKNOWLEDGE
    | DeviceStatus.DRIVER
    | DeviceStatus.DRIVER_OK
    | DeviceStatus.FEATURES_OK
    | DeviceStatus.FAILED
)


class VirtioCore:
    """A device's status machine. Pure: called under the guard, and calls back under it.

    `on_start`: the driver is ready; `on_notify(queue)`: a queue may have something to be done;
    `on_stop`: reset, let go of what is under way; `on_ended`: what was under way at a reset has
    ended, the status reads 0; `on_restore`: look at everything anew; `on_interrupt(queue)`: there
    is a reason for one, None for the configuration's; `on_reset`: for the register map, forget.
    """

    def __init__(
        self, model: DeviceModel, *, private: bool = False, more: Feature = NO_FEATURES
    ) -> None:
        """`private`: what the driver does not share cannot be reached, so it has to know that.
        `more` are features beside `QUEUES`."""
        self.model = model
        insisted = Feature.ACCESS_PLATFORM if private else NO_FEATURES
        # Numbers: the complement of a flag has no bits beyond those that it knows.
        self._offered = int(model.features | QUEUES | more | insisted)
        self._insisted = int(Feature.VERSION_1 | insisted)
        self.on_start: Callable[[], None] = _nothing
        self.on_stop: Callable[[], None] = _nothing
        self.on_ended: Callable[[], None] = _nothing
        self.on_restore: Callable[[], None] = _nothing
        self.on_reset: Callable[[], None] = _nothing
        self.on_notify: Callable[[int], None] = _to_nobody
        self.on_interrupt: Callable[[int | None], None] = _to_nobody
        self.epoch = 0
        """Number of resets: what was begun in another one must not be finished."""
        self.generation = 0
        """Number of changes of the configuration: what is read under two is of neither."""
        self._may_do_dma = True
        self._busy: set[int] = set()
        self._resetting = DeviceStatus(0)
        self._forget()

    def _forget(self) -> None:
        self._status = DeviceStatus(0)
        self._acknowledged = 0
        self._queues = tuple(
            QueueRegisters(most, self._is_setting_up) for most in self.model.queue_sizes
        )

    # -- the registers --

    @property
    def status(self) -> int:
        """The status register."""
        return int(self._resetting or self._status)

    @property
    def needs_reset(self) -> bool:
        """True from `fail` to the reset."""
        return DeviceStatus.NEEDS_RESET in self._status

    @property
    def is_resetting(self) -> bool:
        """True while a reset waits for the backend."""
        return bool(self._resetting)

    @property
    def features(self) -> int:
        """Features that are in force: those acknowledged, from FEATURES_OK on; 0 before."""
        return self._acknowledged if DeviceStatus.FEATURES_OK in self._status else 0

    @property
    def queue_count(self) -> int:
        """Number of queues."""
        return len(self._queues)

    def write_status(self, value: int) -> None:
        """Take bits that the driver sets, where it is their time; 0 resets."""
        if not value:
            self.reset()
            return
        if self._resetting:
            return
        new = DeviceStatus(value & _DRIVER_S) & ~self._status
        if DeviceStatus.FEATURES_OK in new and not self._accepts():
            new &= ~DeviceStatus.FEATURES_OK
        if not (self._status | new) & DeviceStatus.FEATURES_OK:
            new &= ~DeviceStatus.DRIVER_OK
        self._status |= new
        if DeviceStatus.DRIVER_OK in new:
            self.on_start()

    def _accepts(self) -> bool:
        features = self._acknowledged
        return (
            not features & ~self._offered
            and features & self._insisted == self._insisted
            and self.model.accept(features)
        )

    def offered(self, word: int) -> int:
        """Bits 32 * `word` and on of the features that are offered; 0 for any other word."""
        return self._offered >> 32 * word & _WORD if 0 <= word < 2 else 0

    def acknowledged(self, word: int) -> int:
        """Bits of the features that the driver has acknowledged, as `offered`."""
        return self._acknowledged >> 32 * word & _WORD if 0 <= word < 2 else 0

    def acknowledge(self, word: int, value: int) -> None:
        """Take 32 bits of the driver's features, between DRIVER and FEATURES_OK."""
        now = self._status & (DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK)
        if now == DeviceStatus.DRIVER and 0 <= word < 2:
            self._acknowledged &= ~(_WORD << 32 * word)
            self._acknowledged |= (value & _WORD) << 32 * word

    def queue(self, number: int) -> QueueRegisters | None:
        """The queue of any number; None: it is not there, reads 0, and what is written is lost."""
        return self._queues[number] if 0 <= number < len(self._queues) else None

    def enable(self, number: int, *, enabled: bool = True) -> None:
        """Enable a queue as it has been set up, or not; one that cannot be needs a reset."""
        queue = self.queue(number)
        if queue is None or not self._is_setting_up():
            return
        if not enabled:
            queue.freeze(None)
            return
        layout = QueueLayout(queue.place, Feature(self._acknowledged))
        if not layout.is_possible or queue.place.size > queue.most:
            self.fail()
        elif not queue.is_enabled:
            queue.freeze(layout)

    def _is_setting_up(self) -> bool:
        bits = DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK | DeviceStatus.NEEDS_RESET
        return not self._resetting and self._status & bits == DeviceStatus.FEATURES_OK

    def notify(self, number: int) -> None:
        """The driver says that a queue, of any number, has something."""
        if 0 <= number < len(self._queues):
            self.on_notify(number)

    def read_config(self, offset: int, size: int) -> int:
        """Bytes of the configuration as a little-endian number; 0 where it has none."""
        return int.from_bytes(self.model.config()[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Take bytes of the configuration; what does not lie within is lost."""
        if offset >= 0 and offset + size <= len(self.model.config()):
            self.model.write_config(offset, value.to_bytes(size, "little"))

    # -- the machine's side --

    def reset(self) -> None:
        """Forget everything; the status reads 0 when what is under way has ended."""
        if self._busy:
            self._resetting = self._resetting or self._status
        self.epoch += 1
        self._forget()
        self.model.reset()
        self.on_reset()
        self.on_stop()

    def allow_dma(self, allowed: bool) -> None:
        """Let the device work on guest memory, or not (a PCI function's bus master bit)."""
        has_come = allowed and not self._may_do_dma
        self._may_do_dma = allowed
        if has_come:
            for number in range(len(self._queues)):
                self.on_notify(number)

    def running(self, number: int) -> QueueLayout | None:
        """The queue to work on: enabled, its driver ready, and allowed DMA; else None."""
        working = self._status & (DeviceStatus.DRIVER_OK | DeviceStatus.NEEDS_RESET)
        if working != DeviceStatus.DRIVER_OK or not self._may_do_dma:
            return None
        return self._queues[number].layout

    def running_queues(self) -> Iterator[int]:
        """Numbers of the queues to work on."""
        return (number for number in range(len(self._queues)) if self.running(number))

    def position(self, number: int) -> QueuePosition:
        """The device's position in a queue."""
        return self._queues[number].position

    def move(self, number: int, position: QueuePosition) -> None:
        """The device is so far in a queue: a chain was given back."""
        self._queues[number].position = position

    def follow(self, number: int, source: Callable[[], QueuePosition] | None) -> None:
        """Have `source` asked for the position in a queue, until it is None or there is a reset."""
        self._queues[number].source = source

    def begin(self, number: int) -> int:
        """The backend works for a queue on guest memory. Return the epoch that it does so in: a
        reset waits until `end`."""
        self._busy.add(number)
        return self.epoch

    def end(self, number: int) -> None:
        """It does no more."""
        self._busy.discard(number)
        if not self._busy and self._resetting:
            self._resetting = DeviceStatus(0)
            self.on_ended()

    def interrupt(self, number: int | None) -> None:
        """There is a reason for an interrupt: a queue's, or the configuration's (None)."""
        if DeviceStatus.DRIVER_OK in self._status:
            self.on_interrupt(number)

    def config_changed(self) -> None:
        """The model's configuration has changed."""
        self.generation = self.generation + 1 & _WORD
        self.interrupt(None)

    def fail(self) -> None:
        """The device needs a reset: nothing goes on before that (2.1.2)."""
        if not self.needs_reset:
            self._status |= DeviceStatus.NEEDS_RESET
            self.interrupt(None)

    # -- saved state --

    def save(self) -> SavedVirtioCore:
        """The state; chains under way are in it as chains that are still available."""
        from pyvmm.devices.virtio.saved import SavedVirtioCore, SavedVirtqueue

        return SavedVirtioCore(
            status=int(self._status),
            features=self._acknowledged,
            generation=self.generation,
            queues=tuple(
                SavedVirtqueue(queue.place, queue.is_enabled, queue.position)
                for queue in self._queues
            ),
            model=self.model.save(),
        )

    def restore(self, value: SavedVirtioCore) -> None:
        """Be as the core that `value` was saved from, and look at each queue once.

        Raises `UsageError`, before anything is changed, for one with other queues or features.
        """
        self._require_same(value)
        self.epoch += 1
        self._forget()
        self._status = DeviceStatus(value.status)
        self._acknowledged = value.features
        self.generation = value.generation
        for queue, saved in zip(self._queues, value.queues, strict=True):
            queue.place = saved.place
            queue.position = saved.position
            if saved.enabled:
                queue.freeze(QueueLayout(saved.place, Feature(value.features)))
        self.model.reset()
        if DeviceStatus.FEATURES_OK in self._status:
            self.model.accept(value.features)
        self.model.restore(value.model)
        self.on_restore()

    def _require_same(self, value: SavedVirtioCore) -> None:
        attempt, remedy = "restore a virtio device", "make the machine with the same devices"
        if len(value.queues) != len(self._queues):
            raise UsageError(
                attempt,
                f"it has {len(self._queues)} queues, the one that was saved {len(value.queues)}",
                remedy,
            )
        if value.status & DeviceStatus.FEATURES_OK and value.features & ~self._offered:
            raise UsageError(attempt, "the one that was saved has features that it lacks", remedy)
        if type(value.model) is not type(self.model.save()):
            raise UsageError(attempt, "the one that was saved is of another kind", remedy)


def _nothing() -> None:
    """Be no callback."""


def _to_nobody(queue: int | None) -> None:
    """Be no callback for a queue."""
