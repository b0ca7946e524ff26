# SPDX-License-Identifier: MIT
"""Engines: a host's own way to serve the plain chains of a device's queue, without Python.

An engine serves what it knows to be plain, exactly as `devices.virtio.split_ring` and the handler
in `machine.virtio` would. Whatever else there is it leaves as it is, and ends its run.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from pyvmm.hosts.owner import Owned


class SplitQueue(NamedTuple):
    """A split virtqueue: GPAs of its parts, `size` in descriptors.

    `available` and `used` are positions, free-running numbers of 16 bits. `doorbell` and
    `interrupt` are descriptors that stay their owner's and open until the engine is closed: the
    eventfd that the guest's notifications signal, and the one that interrupts it (-1: none does).
    """

    size: int
    descriptors: int
    driver: int
    device: int
    indirect: bool
    event_index: bool
    available: int
    used: int
    doorbell: int
    interrupt: int


class BlockQueue(NamedTuple):
    """The disk of a block device's queue, `capacity` of it in bytes.

    `file` is its descriptor, which stays its owner's and open until the engine is closed.
    `flushes`: a flush is plain.
    """

    file: int
    capacity: int
    read_only: bool
    flushes: bool = True


class NetQueue(NamedTuple):
    """The tap of a network device's queue, which `receives` frames for the driver or sends its own.

    `tap` is a descriptor that does not block and gives frames virtio's header of 12 bytes; it stays
    its owner's and open until the engine is closed. `most` is the bytes, without the header, of the
    longest frame that is sent uncut, or to be expected; `offloads` the TUNSETOFFLOAD bits of what a
    header may ask for. `merges`: a frame for the driver may lie in several chains.
    """

    tap: int
    receives: bool
    most: int
    offloads: int = 0
    merges: bool = False


class Stopped(enum.Enum):
    """Reason why a run of an engine has ended. The numbers are split_queue.h's."""

    KICKED = 0
    ODD_CHAIN = 1
    """The chain at the position is not plain."""
    BROKEN = 2
    """The ring cannot be understood, or cannot be leased."""
    VACATING = 3
    """A conversion, reset or saving of guest memory waits for a lease to end, or keeps one from
    being taken, or there are too many of them: a moment later, again."""
    IDLE = 4
    """There is nothing to be done; only of a run that was not to wait."""


class EngineCounts(NamedTuple):
    """Requests that an engine has done, and bytes of their chains; both only grow."""

    requests: int
    bytes: int


class QueueEngine(Owned, Protocol):
    """Serves one queue; closed when no run is under way, and before the machine's memory is."""

    def run(self, *, waits: bool = True) -> Stopped:
        """Serve the queue until there is a reason to stop, without the interpreter lock.

        With `waits` it waits for the guest's notifications when there is nothing to be done. One
        thread at a time. Whatever has been leased was given back then.
        """
        ...

    def kick(self) -> None:
        """End the run that is under way, or the next one at once. Any thread."""
        ...

    @property
    def position(self) -> tuple[int, int]:
        """Positions in the available and the used ring, between two runs."""
        ...

    @property
    def counts(self) -> EngineCounts:
        """Work that was done."""
        ...


class BlockEngine(QueueEngine, Protocol):
    """Serves a queue of a block device."""

    def set_durable(self, durable: bool, /) -> None:
        """Have writes done only when they outlive a crash of the host, or not. Any thread."""
        ...

    @property
    def flush_error(self) -> int:
        """The errno of a flush that has failed, between two runs; 0 for none.

        The kernel tells of it once (fsync(2)): whoever tries again is told that all is well.
        """
        ...
