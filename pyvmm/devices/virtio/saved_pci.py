# SPDX-License-Identifier: MIT
"""Saved state of a virtio device on PCI."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.devices.pci.saved import SavedConfigSpace, SavedMsix
from pyvmm.devices.saved_values import require, require_numbers
from pyvmm.devices.virtio.saved import SavedVirtioCore


@dataclass(frozen=True, slots=True)
class SavedVirtioPci:
    """State of a `VirtioPci`; `selects` of device features, driver features, queue."""

    core: SavedVirtioCore
    config: SavedConfigSpace
    msix: SavedMsix
    selects: tuple[int, int, int]
    isr: int
    config_vector: int
    queue_vectors: tuple[int, ...]

    def __post_init__(self) -> None:
        # The registers that a driver writes and reads have 16 bits for these.
        sizes = all(queue.place.size < 1 << 16 for queue in self.core.queues)
        require(holds=sizes, of=self, part="core")
        require_numbers(self, "isr", bits=2)
        require_numbers(self, "config_vector", bits=16)
        fits = len(self.selects) == 3 and all(0 <= one < 1 << 32 for one in self.selects)
        fits = fits and self.selects[2] < 1 << 16
        require(holds=fits, of=self, part="selects")
        vectors = all(0 <= one < 1 << 16 for one in self.queue_vectors)
        require(holds=vectors, of=self, part="queue_vectors")
