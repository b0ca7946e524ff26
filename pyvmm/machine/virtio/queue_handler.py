# SPDX-License-Identifier: MIT
"""Handlers: what a virtio device does with the chains of its queues, in the machine's nursery."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pyvmm.devices.virtio.device_model import DeviceModel
from pyvmm.devices.virtio.features import NO_FEATURES, Feature
from pyvmm.hosts.interrupts import Doorbell
from pyvmm.machine.leases import Leases, Range


def _nothing() -> None:
    """Have no other chain."""


class BoundChain(NamedTuple):
    """A chain's buffers, leased: memory of the guest's, which it may write at any time as well.

    `readable` views are read-only and come first in the chain; `writable` ones follow. Copy what is
    looked at twice. Every slice and every export of a view is to be gone when `handle` returns.
    """

    readable: tuple[memoryview, ...]
    writable: tuple[memoryview, ...]
    places: Sequence[Range] = ()
    """GPA and length in bytes of each writable one."""
    another: Callable[[], BoundChain | None] = _nothing
    """Take the next chain, too, for what does not fit into this one; None where the driver has none
    now, of which it is asked to tell. All are given back at once. Raises `RingFullError`, and what
    is to be let pass."""


class NotNowError(Exception):
    """A chain cannot be done now: it stays available, and is taken again after `on_ready`."""


class RingFullError(Exception):
    """There is no other chain, and there never will be: the driver has no descriptor for one."""


class QueueHandler(Protocol):
    """The work of a device's queues, chain by chain: each queue by a task of its own, in order.

    All methods are called in the trio thread and under no guard.

    `on_ready(queue)` and `on_config_change()` are set by the server before anything is called, and
    are for the handler to call, in the trio thread and under no guard: when `is_ready` has become
    true for a queue, and when the model's configuration has changed.
    """

    on_ready: Callable[[int], None]
    on_config_change: Callable[[], None]

    def is_ready(self, queue: int) -> bool:
        """Tell whether there is something to be done with a chain of that queue.

        While there is not, no chain is taken and no memory leased.
        """
        ...

    async def handle(self, queue: int, chain: BoundChain) -> int:
        """Do what a chain asks for. Return the number of bytes written, from the chain's first
        writable one on, and through those of others that were taken (`BoundChain.another`).

        It is cancelled by a reset, and then touches no buffer any more. `OSError` and `ValueError`
        give the chain back with nothing written; `NotNowError` leaves it where it is, until
        `on_ready` or the driver's next notification. Any other exception ends the run.
        """
        ...

    async def serve(self) -> None:
        """Work beside the queues until cancelled (sockets, files), or return."""
        ...


class MemoryHandler:
    """Base of handlers whose work is on memory beside their chains'.

    The server sets `leases` before anything is called.
    """

    leases: Leases


class VirtioDevice(NamedTuple):
    """A virtio device without a transport, for whichever one places it.

    `name` is for people, and unique in a machine. `more` are features of the core's that are
    offered beside `INDIRECT`, `EVENT_INDEX` and `VERSION_1`: `PACKED`, `NOTIFICATION_DATA`.
    """

    name: str
    model: DeviceModel
    handler: QueueHandler
    more: Feature = NO_FEATURES


class TransportSide(Protocol):
    """A transport as the queue server sees it: how the guest rings. It is the core's `on_interrupt`
    that goes the other way.
    """

    def doorbells(self, wanted: Sequence[int]) -> Mapping[int, Doorbell]:
        """Have doorbells for these queues, and see to it that no others ring; those there are.

        Called under the device's guard, from any thread: when the device starts and stops, and when
        the transport itself has said that they changed (`QueueServer.doorbells_changed`). A queue
        without one is notified by registers (`VirtioCore.notify`). A transport may keep doorbells
        of queues that are not wanted: they are drained.
        """
        ...
