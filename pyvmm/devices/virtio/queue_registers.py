# SPDX-License-Identifier: MIT
"""Registers of one virtqueue (virtio 1.2, 4.1.4.3 and 4.2.2), for both register maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pyvmm.devices.virtio.rings import START, QueueLayout, QueuePlace, QueuePosition

_PARTS: Final = ("descriptors", "driver", "device")


class QueueRegisters:
    """A queue as the driver sets it up, and how far the device is in its ring.

    `most` is its size at the most and after a reset. The methods take effect between FEATURES_OK
    and DRIVER_OK only, and of a queue that is enabled nothing changes.
    """

    __slots__ = ("_is_time", "_layout", "_position", "most", "place", "source")

    def __init__(self, most: int, is_time: Callable[[], bool]) -> None:
        self.most = most
        self.place = QueuePlace(most, 0, 0, 0)
        self._position = START
        self.source: Callable[[], QueuePosition] | None = None
        """Function that tells the position while somebody else than the core moves it."""
        self._layout: QueueLayout | None = None
        self._is_time = is_time

    @property
    def position(self) -> QueuePosition:
        """Position of the device in the ring."""
        return self._position if self.source is None else self.source()

    @position.setter
    def position(self, position: QueuePosition) -> None:
        self._position = position

    def freeze(self, layout: QueueLayout | None) -> None:
        """Be enabled as `layout`, or not. For the core, which has looked at it."""
        self._layout = layout

    @property
    def is_enabled(self) -> bool:
        """True from being enabled to the reset."""
        return self._layout is not None

    @property
    def layout(self) -> QueueLayout | None:
        """The queue as it was enabled; None before."""
        return self._layout

    def set_size(self, value: int) -> None:
        """Take the size in descriptors, good or bad."""
        self._set("size", value)

    def set_address(self, part: int, value: int, *, shift: int = 0, bits: int = 64) -> None:
        """Take the GPA, or `bits` of it from bit `shift` on, of a part: 0 descriptors, 1 the
        driver's, 2 the device's."""
        mask = ((1 << bits) - 1) << shift
        kept = self.place[1 + part] & ~mask
        self._set(_PARTS[part], kept | value << shift & mask)

    def _set(self, name: str, value: int) -> None:
        if self._is_time() and self._layout is None:
            self.place = self.place._replace(**{name: value})
