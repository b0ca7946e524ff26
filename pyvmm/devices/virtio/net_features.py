# SPDX-License-Identifier: MIT
"""Features of a network device (virtio 1.2, section 5.1.3), and which need which. Pure."""

from __future__ import annotations

import enum
from typing import Final


class NetFeature(enum.IntFlag):
    """Features of a network device.

    ``HOST_`` is what the device does with frames of the driver's, ``GUEST_`` what the driver does
    with those of the device.
    """

    CSUM = 1 << 0
    GUEST_CSUM = 1 << 1
    CTRL_GUEST_OFFLOADS = 1 << 2
    MTU = 1 << 3
    MAC = 1 << 5
    GUEST_TSO4 = 1 << 7
    GUEST_TSO6 = 1 << 8
    GUEST_ECN = 1 << 9
    HOST_TSO4 = 1 << 11
    HOST_TSO6 = 1 << 12
    HOST_ECN = 1 << 13
    MRG_RXBUF = 1 << 15
    STATUS = 1 << 16
    CTRL_VQ = 1 << 17
    CTRL_RX = 1 << 18
    CTRL_VLAN = 1 << 19
    CTRL_RX_EXTRA = 1 << 20
    GUEST_ANNOUNCE = 1 << 21
    MQ = 1 << 22
    CTRL_MAC_ADDR = 1 << 23
    GUEST_USO4 = 1 << 54
    GUEST_USO6 = 1 << 55
    HOST_USO = 1 << 56


MOST_PAIRS: Final = 256
"""Pairs of queues of a card; a tap has no more queues."""
NO_NET_FEATURES: Final = NetFeature(0)
MAC_SIZE: Final = 6
LEAST_MTU: Final = 68
"""Bytes of the smallest MTU (5.1.4.1)."""
MOST_MTU: Final = 65_535
_MULTICAST: Final = 1
GUEST_OFFLOADS: Final = (
    NetFeature.GUEST_CSUM
    | NetFeature.GUEST_TSO4
    | NetFeature.GUEST_TSO6
    | NetFeature.GUEST_ECN
    | NetFeature.GUEST_USO4
    | NetFeature.GUEST_USO6
)
"""Offloads that a driver can have changed while it runs (5.1.6.5.6)."""
_NEEDS: Final = (
    (NetFeature.GUEST_TSO4, NetFeature.GUEST_CSUM),
    (NetFeature.GUEST_TSO6, NetFeature.GUEST_CSUM),
    (NetFeature.GUEST_ECN, NetFeature.GUEST_TSO4 | NetFeature.GUEST_TSO6),
    (NetFeature.GUEST_USO4, NetFeature.GUEST_CSUM),
    (NetFeature.GUEST_USO6, NetFeature.GUEST_CSUM),
    (NetFeature.HOST_TSO4, NetFeature.CSUM),
    (NetFeature.HOST_TSO6, NetFeature.CSUM),
    (NetFeature.HOST_ECN, NetFeature.HOST_TSO4 | NetFeature.HOST_TSO6),
    (NetFeature.HOST_USO, NetFeature.CSUM),
    (NetFeature.CTRL_GUEST_OFFLOADS, NetFeature.CTRL_VQ),
    (NetFeature.CTRL_RX, NetFeature.CTRL_VQ),
    (NetFeature.CTRL_RX_EXTRA, NetFeature.CTRL_VQ),
    (NetFeature.CTRL_VLAN, NetFeature.CTRL_VQ),
    (NetFeature.GUEST_ANNOUNCE, NetFeature.CTRL_VQ),
    (NetFeature.MQ, NetFeature.CTRL_VQ),
    (NetFeature.CTRL_MAC_ADDR, NetFeature.CTRL_VQ),
)
"""Features, and those of which each needs one (5.1.3.1)."""


def is_consistent(features: int) -> bool:
    """Tell whether all that features need is among them."""
    return all(features & needed for one, needed in _NEEDS if features & one)


def is_card_address(mac: bytes) -> bool:
    """Tell whether that is an address of one card: not of many, and not all zeroes."""
    return len(mac) == MAC_SIZE and not mac[0] & _MULTICAST and any(mac)
