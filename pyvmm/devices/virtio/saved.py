# SPDX-License-Identifier: MIT
"""Saved state of virtio devices: of the core, and of each kind that has some of its own.

As `devices.saved_values`, a module that is loaded when a device is saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pyvmm.devices.p9.fids import FidState, is_name
from pyvmm.devices.p9.messages import LARGEST_MESSAGE, NO_FID
from pyvmm.devices.saved_values import require, require_numbers
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.port_state import PortState
from pyvmm.devices.virtio.rings import QueueLayout, QueuePlace, QueuePosition

_WORD: Final = 16
"""Bits of a position."""


@dataclass(frozen=True, slots=True)
class SavedVirtqueue:
    """State of a queue: its place as the driver has set it up, and progress in its ring."""

    place: QueuePlace
    enabled: bool
    position: QueuePosition

    def __post_init__(self) -> None:
        place, position = self.place, self.position
        fits = all(0 <= part < 1 << 64 for part in place) and 0 <= place.size < 1 << 32
        require(holds=fits, of=self, part="place")
        numbers = (position.available, position.used)
        fits = all(0 <= number < 1 << _WORD for number in numbers)
        require(holds=fits, of=self, part="position")


@dataclass(frozen=True, slots=True)
class SavedVirtioCore:
    """State of a `VirtioCore`; `model` is that of its kind, None where that has none."""

    status: int
    features: int
    generation: int
    queues: tuple[SavedVirtqueue, ...]
    model: object | None = None

    def __post_init__(self) -> None:
        require_numbers(self, "status", bits=8)
        require_numbers(self, "features", bits=64)
        require_numbers(self, "generation", bits=32)
        features = Feature(self.features)
        for queue in self.queues:
            layout = QueueLayout(queue.place, features)
            is_possible = not queue.enabled or layout.is_possible
            require(holds=is_possible, of=self, part="queues")
            if queue.enabled and layout.is_packed:
                inside = max(queue.position.available, queue.position.used) < queue.place.size
                require(holds=inside, of=self, part="queues")


@dataclass(frozen=True, slots=True)
class SavedBlock:
    """State of a block device's own: `writeback` as the driver has set it."""

    writeback: bool


@dataclass(frozen=True, slots=True)
class SavedBalloon:
    """State of a balloon: pages that the guest is asked to give up, and has given up."""

    target: int
    actual: int

    def __post_init__(self) -> None:
        require_numbers(self, "target", "actual", bits=32)


@dataclass(frozen=True, slots=True)
class SavedVirtioMmio:
    """State of a `VirtioMmio`: `selects` of device features, driver features, queue."""

    core: SavedVirtioCore
    selects: tuple[int, int, int]
    interrupt: int

    def __post_init__(self) -> None:
        require_numbers(self, "interrupt", bits=2)
        selects = len(self.selects) == 3 and all(0 <= one < 1 << 32 for one in self.selects)
        require(holds=selects, of=self, part="selects")


@dataclass(frozen=True, slots=True)
class SavedShare:
    """State of a shared folder: the largest message that was agreed on, or 0, and the fids."""

    message_size: int
    fids: tuple[FidState, ...]

    def __post_init__(self) -> None:
        require(holds=0 <= self.message_size <= LARGEST_MESSAGE, of=self, part="message_size")
        for state in self.fids:
            fits = 0 <= state.fid < NO_FID and all(is_name(name) for name in state.path)
            require(holds=fits, of=self, part="fids")


@dataclass(frozen=True, slots=True)
class SavedConsole:
    """State of a console: each port's, and control messages for the driver."""

    ports: tuple[PortState, ...]
    to_driver: tuple[bytes, ...]
