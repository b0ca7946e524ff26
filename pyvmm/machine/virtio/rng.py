# SPDX-License-Identifier: MIT
"""A virtio entropy device (virtio 1.2, section 5.4): random bytes of the host's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import trio

from pyvmm.devices.virtio.features import NO_FEATURES, Feature
from pyvmm.devices.virtio.plain import PlainModel
from pyvmm.machine.virtio.queue_handler import BoundChain, VirtioDevice

DEVICE_ID: Final = 4
QUEUE_SIZE: Final = 64
MOST_BYTES: Final = 64 << 10
"""Most bytes for one request: a guest that asks for more gets these, and may ask again."""
_PAUSE: Final = 0.1
"""Seconds between two looks at a source that is not ready, as one may be when a host starts."""


def random_bytes(count: int) -> bytes:
    """Take `count` bytes of the kernel's, or fewer. Raises `BlockingIOError` before it has any."""
    return os.getrandom(count, os.GRND_NONBLOCK)


def rng_device(
    name: str = "virtio rng",
    *,
    source: Callable[[int], bytes] = random_bytes,
    more: Feature = NO_FEATURES,
) -> VirtioDevice:
    """Make an entropy device, which takes bytes from `source`."""
    return VirtioDevice(name, PlainModel(DEVICE_ID, (QUEUE_SIZE,)), RngHandler(source), more)


class RngHandler:
    """Fills the buffers of each request, up to `MOST_BYTES`."""

    on_ready: Callable[[int], None]
    on_config_change: Callable[[], None]

    def __init__(self, source: Callable[[int], bytes]) -> None:
        self._source = source

    def is_ready(self, queue: int) -> bool:
        """Be so always."""
        del queue
        return True

    async def serve(self) -> None:
        """Do nothing beside the queue."""
        await trio.lowlevel.checkpoint()

    async def handle(self, queue: int, chain: BoundChain) -> int:
        """Fill buffers. Return the bytes written. Raises `ValueError` for what is no request."""
        del queue
        if chain.readable or not chain.writable:
            raise ValueError("a request for entropy has buffers to write, and no others")
        while True:
            try:
                return self._fill(chain.writable)
            except BlockingIOError:
                await trio.sleep(_PAUSE)

    def _fill(self, views: tuple[memoryview, ...]) -> int:
        """Write at least one byte. Raises `BlockingIOError` where there is none."""
        data = self._source(min(sum(map(len, views)), MOST_BYTES))
        written = 0
        for view in views:
            part = data[written : written + len(view)]
            view[: len(part)] = part
            written += len(part)
        return written
