# SPDX-License-Identifier: MIT
"""Models of devices without a configuration and without state of their own."""

from __future__ import annotations


class PlainModel:
    """A `DeviceModel` that is nothing but a kind, features and queues."""

    def __init__(self, kind: int, queue_sizes: tuple[int, ...], features: int = 0) -> None:
        self.kind = kind
        self.queue_sizes = queue_sizes
        self.features = features

    def config(self) -> bytes:
        """No byte."""
        return b""

    def write_config(self, offset: int, data: bytes) -> None:
        """Take nothing: there is none to write."""

    def accept(self, features: int) -> bool:
        """Take any of what is offered."""
        del features
        return True

    def reset(self) -> None:
        """Be as made: it cannot be anything else."""

    def save(self) -> None:
        """Save nothing."""

    def restore(self, value: None) -> None:
        """Be as saved."""
