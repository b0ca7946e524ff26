# SPDX-License-Identifier: MIT
"""Models: what makes a virtio device one of its kind, apart from queues and transports."""

from __future__ import annotations

from typing import Any, Protocol


class DeviceModel(Protocol):
    """A kind of device: its numbers, its configuration, its state. Pure; the guard is its owner's.

    `kind` is the device ID (virtio 1.2, section 5); `features` its own feature bits, and no bit of
    `Feature`, which are the core's; `queue_sizes` the most descriptors of each queue, by number:
    powers of two. Every method is called under the device's guard, from any thread, and none waits.
    """

    @property
    def kind(self) -> int:
        """The device ID."""
        ...

    @property
    def features(self) -> int:
        """Feature bits of its kind that it offers."""
        ...

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """The most descriptors of each of its queues."""
        ...

    def config(self) -> bytes:
        """The configuration as it is now. Its length stays; where the device changes it, the core
        is to be told (`VirtioCore.config_changed`)."""
        ...

    def write_config(self, offset: int, data: bytes) -> None:
        """Take bytes that the driver writes, all within `config`; others are no business of its."""
        ...

    def accept(self, features: int) -> bool:
        """Take the features that the driver acknowledges, all of them offered; False: refused.

        They hold from then on until `reset`.
        """
        ...

    def reset(self) -> None:
        """Be as made: by the driver or with the machine. What is under way has its own end."""
        ...

    def save(self) -> Any:
        """The state as a frozen dataclass of `devices.virtio.saved`; None where it has none."""
        ...

    def restore(self, value: Any) -> None:
        """Be as the model that `value` was saved from; called twice (`Saveable.restore`)."""
        ...
