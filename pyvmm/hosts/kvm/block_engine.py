# SPDX-License-Identifier: MIT
"""The engine of a block device's queue, which is block_queue.c's."""

from __future__ import annotations

from typing import Final

from pyvmm.hosts.kvm.binding import CData, lib, new
from pyvmm.hosts.kvm.split_engine import EngineKind, KvmSplitEngine, split_setup
from pyvmm.hosts.queue_engine import BlockQueue, SplitQueue

_KIND: Final = EngineKind(lib.pyvmm_block_ring, lib.pyvmm_block_run, lib.pyvmm_block_free)


class KvmBlockEngine(KvmSplitEngine):
    """`hosts.queue_engine.BlockEngine` of the VM whose conversions are `raw`, which must stay."""

    def __init__(self, raw: CData, ring: SplitQueue, disk: BlockQueue) -> None:
        setup = new("struct pyvmm_block_setup *", disk._asdict())
        super().__init__(raw, lib.pyvmm_block_new(raw, split_setup(ring), setup), _KIND)

    def set_durable(self, durable: bool, /) -> None:
        """Have writes done when they outlive a crash, or before."""
        lib.pyvmm_block_set_durable(self._queue, durable)

    @property
    def flush_error(self) -> int:
        """The errno of a flush that has failed; 0 for none."""
        return int(lib.pyvmm_block_flush_error(self._queue))
