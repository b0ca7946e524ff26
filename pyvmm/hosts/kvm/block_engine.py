# SPDX-License-Identifier: MIT
"""The engine of a block device's queue, which is block_queue.c's."""

from __future__ import annotations

import errno

from pyvmm.hosts.kvm.binding import CData, ffi, lib, new, refused
from pyvmm.hosts.owner import Owner
from pyvmm.hosts.queue_engine import BlockCounts, BlockQueue, Stopped


class KvmBlockEngine(Owner):
    """`hosts.queue_engine.QueueEngine` of the VM whose conversions are `raw`, which must stay."""

    def __init__(self, raw: CData, queue: BlockQueue) -> None:
        self._kept = raw
        setup = new("struct pyvmm_block_setup *", queue._asdict())
        self._queue = lib.pyvmm_block_new(raw, setup)
        if not self._queue:
            raise refused(ffi.errno or errno.ENOMEM, "make an engine for a block device's queue")

    def run(self, *, waits: bool = True) -> Stopped:
        """Serve the queue; see `QueueEngine`."""
        return Stopped(lib.pyvmm_block_run(self._queue, waits))

    def kick(self) -> None:
        """End a run."""
        lib.pyvmm_block_kick(self._queue)

    def set_durable(self, durable: bool, /) -> None:
        """Have writes done when they outlive a crash, or before."""
        lib.pyvmm_block_set_durable(self._queue, durable)

    @property
    def position(self) -> tuple[int, int]:
        """Positions in the available and the used ring."""
        return lib.pyvmm_block_available(self._queue), lib.pyvmm_block_used(self._queue)

    @property
    def flush_error(self) -> int:
        """The errno of a flush that has failed; 0 for none."""
        return int(lib.pyvmm_block_flush_error(self._queue))

    @property
    def counts(self) -> BlockCounts:
        """Work that was done."""
        counts = lib.pyvmm_block_counted(self._queue)
        return BlockCounts(counts.requests, counts.bytes)

    def close(self) -> None:
        """Give it back; nothing afterwards but this again."""
        if self._queue:
            lib.pyvmm_block_free(self._queue)
            self._queue = None
