# SPDX-License-Identifier: MIT
"""A virtio network device (virtio 1.2, section 5.1): features, configuration, queues. Pure."""

from __future__ import annotations

import enum
import struct
from typing import Final

DEVICE_ID: Final = 1
QUEUE_SIZE: Final = 256
MAC_SIZE: Final = 6
LEAST_MTU: Final = 68
"""Bytes of the smallest MTU (5.1.4.1)."""
MOST_MTU: Final = 65_535
_CONFIG: Final = struct.Struct("<6sHHH")
_LINK_UP: Final = 1


class NetFeature(enum.IntFlag):
    """Features of a network device (5.1.3)."""

    MTU = 1 << 3
    MAC = 1 << 5
    STATUS = 1 << 16


class NetModel:
    """A `DeviceModel` of a card with the address `mac`, of 6 bytes.

    `mtu` is what the driver is told, in bytes; None: nothing.
    """

    kind = DEVICE_ID

    def __init__(self, mac: bytes, *, mtu: int | None = None) -> None:
        self.mac = mac
        self.mtu = mtu
        self.features = int(NetFeature.MAC | NetFeature.STATUS)
        if mtu is not None:
            self.features |= NetFeature.MTU
        self.queue_sizes = (QUEUE_SIZE,) * 2
        self.is_link_up = True
        """True while the card has a link; the owner's to change, who then tells the core."""
        self.accepted = 0
        """Features that are in force."""

    def config(self) -> bytes:
        """Address, status, number of pairs of queues, MTU."""
        return _CONFIG.pack(self.mac, _LINK_UP * self.is_link_up, 1, self.mtu or 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing of it is the driver's to change."""

    def accept(self, features: int) -> bool:
        """Take any of what is offered."""
        self.accepted = features
        return True

    def reset(self) -> None:
        """Be as made; the link is not the driver's."""
        self.accepted = 0

    def save(self) -> None:
        """Nothing yet is the driver's."""

    def restore(self, value: None) -> None:
        """Nothing yet is the driver's."""


def receive_queue(pair: int) -> int:
    """Number of the queue of frames for the driver."""
    return 2 * pair


def transmit_queue(pair: int) -> int:
    """Number of the queue of frames of the driver's."""
    return 2 * pair + 1
