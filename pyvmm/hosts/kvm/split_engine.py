# SPDX-License-Identifier: MIT
"""Engines of split queues, whatever device it is: split_queue.c's part of them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from pyvmm.hosts.kvm.binding import CData, ffi, lib, new, refused
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.queue_engine import EngineCounts, SplitQueue, Stopped


class EngineKind(NamedTuple):
    """C's functions for the queues of one kind of device."""

    ring: Callable[[CData], CData]
    run: Callable[[CData, bool], int]
    free: Callable[[CData], None]


class KvmSplitEngine(Owner):
    """`hosts.queue_engine.QueueEngine` of the VM whose conversions are `raw`, which must stay.

    `queue` is a queue of that `kind`, or NULL with errno, and the engine's to free.
    """

    def __init__(self, raw: CData, queue: CData, kind: EngineKind) -> None:
        self._kept = raw
        if not queue:
            raise refused(ffi.errno or errno.ENOMEM, "make an engine for a device's queue")
        self._kind = kind
        self._queue = queue
        self._ring = kind.ring(queue)

    def run(self, *, waits: bool = True) -> Stopped:
        """Serve the queue; see `QueueEngine`."""
        return Stopped(self._kind.run(self._queue, waits))

    def kick(self) -> None:
        """End a run."""
        lib.pyvmm_split_kick(self._ring)

    @property
    def position(self) -> tuple[int, int]:
        """Positions in the available and the used ring."""
        return lib.pyvmm_split_available(self._ring), lib.pyvmm_split_used(self._ring)

    @property
    def counts(self) -> EngineCounts:
        """Work that was done."""
        counts = lib.pyvmm_split_counted(self._ring)
        return EngineCounts(counts.requests, counts.bytes)

    def close(self) -> None:
        """Give it back; nothing afterwards but this again."""
        if self._queue:
            self._kind.free(self._queue)
            self._queue = None


def split_setup(ring: SplitQueue) -> CData:
    """Spell a ring out as C has it."""
    return new("struct pyvmm_split_setup *", ring._asdict())
