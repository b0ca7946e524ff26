# SPDX-License-Identifier: MIT
"""A model of no kind, for tests of the core."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class PlainModel:
    """Two queues, 16 bytes of configuration, a feature of its own; it counts resets."""

    kind: int = 42
    features: int = 1 << 9
    queue_sizes: tuple[int, ...] = (256, 16)
    refused: int = 0
    content: bytearray = field(default_factory=lambda: bytearray(range(16)))
    resets: int = 0

    def config(self) -> bytes:
        return bytes(self.content)

    def write_config(self, offset: int, data: bytes) -> None:
        self.content[offset : offset + len(data)] = data

    def accept(self, features: int) -> bool:
        return not features & self.refused

    def reset(self) -> None:
        self.resets += 1

    def save(self) -> None:
        return None

    def restore(self, value: None) -> None:
        assert value is None
