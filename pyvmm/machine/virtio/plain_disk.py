# SPDX-License-Identifier: MIT
"""Disks of which a host's engine may do the plain requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyvmm.hosts.queue_engine import BlockEngine, BlockQueue, SplitQueue
from pyvmm.machine.leases import Leases


@dataclass(frozen=True, slots=True)
class PlainDisk:
    """A disk that is a file: an `EngineWork`.

    `is_durable`: writes are done only when they outlive a crash of the host; `durable_changes` are
    functions to be called, under the guard, when that changes. `flush_failed` is told the errno of
    a flush of an engine's that has failed, in the trio thread.
    """

    disk: BlockQueue
    is_durable: Callable[[], bool]
    durable_changes: list[Callable[[bool], None]]
    flush_failed: Callable[[int], None]

    def made(self, leases: Leases, ring: SplitQueue) -> BlockEngine | None:
        """Make an engine."""
        return leases.block_engine(ring, self.disk)

    def begun(self, engine: BlockEngine) -> None:
        """Have the engine know when writes are done."""
        engine.set_durable(self.is_durable())
        self.durable_changes.append(engine.set_durable)

    def ended(self, engine: BlockEngine) -> None:
        """Leave the engine alone."""
        self.durable_changes.remove(engine.set_durable)

    def looked_at(self, engine: BlockEngine) -> None:
        """Tell of a flush that has failed, which nobody else is told of."""
        if engine.flush_error:
            self.flush_failed(engine.flush_error)
