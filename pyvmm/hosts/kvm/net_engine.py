# SPDX-License-Identifier: MIT
"""The engine of a network device's queue, which is net_queue.c's."""

from __future__ import annotations

from typing import Final

from pyvmm.hosts.kvm.binding import CData, lib, new
from pyvmm.hosts.kvm.split_engine import EngineKind, KvmSplitEngine, split_setup
from pyvmm.hosts.queue_engine import NetQueue, SplitQueue

_KIND: Final = EngineKind(lib.pyvmm_net_ring, lib.pyvmm_net_run, lib.pyvmm_net_free)


class KvmNetEngine(KvmSplitEngine):
    """`hosts.queue_engine.QueueEngine` of the VM whose conversions are `raw`, which must stay."""

    def __init__(self, raw: CData, ring: SplitQueue, frames: NetQueue) -> None:
        setup = new("struct pyvmm_net_setup *", frames._asdict())
        super().__init__(raw, lib.pyvmm_net_new(raw, split_setup(ring), setup), _KIND)
