# SPDX-License-Identifier: MIT
"""Queues of a network card whose plain frames a host's engine may move."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.hosts.queue_engine import NetQueue, QueueEngine, SplitQueue
from pyvmm.machine.leases import Leases


@dataclass(frozen=True, slots=True)
class PlainFrames:
    """A queue whose other end is a tap: an `EngineWork`."""

    frames: NetQueue

    def made(self, leases: Leases, ring: SplitQueue) -> QueueEngine | None:
        """Make an engine."""
        return leases.net_engine(ring, self.frames)

    def begun(self, engine: QueueEngine) -> None:
        """Nothing of it changes while an engine runs: another is made then."""

    def ended(self, engine: QueueEngine) -> None:
        """It has no more to say."""

    def looked_at(self, engine: QueueEngine) -> None:
        """Python finds out itself why an engine has stopped."""
