# SPDX-License-Identifier: MIT
"""A virtio network device (virtio 1.2, section 5.1): configuration, queues, state. Pure."""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyvmm.devices.virtio.net_features import (
    GUEST_OFFLOADS,
    MOST_MTU,
    NO_NET_FEATURES,
    NetFeature,
    is_consistent,
)
from pyvmm.devices.virtio.net_filter import Accepts, ReceiveFilter
from pyvmm.devices.virtio.net_header import ETHERNET, TAG

if TYPE_CHECKING:
    from pyvmm.devices.virtio.saved_net import SavedNet

DEVICE_ID: Final = 1
QUEUE_SIZE: Final = 256
_CONFIG: Final = struct.Struct("<6sHHH")
_LINK_UP: Final = 1
_ANNOUNCE: Final = 2
_ALWAYS: Final = (
    NetFeature.MAC
    | NetFeature.MRG_RXBUF
    | NetFeature.STATUS
    | NetFeature.CTRL_VQ
    | NetFeature.CTRL_RX
    | NetFeature.CTRL_VLAN
    | NetFeature.CTRL_RX_EXTRA
    | NetFeature.GUEST_ANNOUNCE
    | NetFeature.CTRL_MAC_ADDR
)


class Role(enum.Enum):
    """Work of a queue."""

    RECEIVE = "receive"
    TRANSMIT = "transmit"
    CONTROL = "control"


class NetModel:
    """A `DeviceModel` of a card with the address `mac`, of 6 bytes.

    `mtu` is what the driver is told, in bytes; None: nothing. `offloads` are features of those
    kinds; `pairs` is the number of queues that can receive. `on_change` is called when what the
    driver wants of the wire has changed, from any thread and maybe under the guard.
    """

    kind = DEVICE_ID

    def __init__(
        self,
        mac: bytes,
        *,
        mtu: int | None = None,
        offloads: NetFeature = NO_NET_FEATURES,
        pairs: int = 1,
    ) -> None:
        self._own_mac = mac
        self.mtu = mtu
        self.longest = (MOST_MTU if mtu is None else mtu) + ETHERNET + TAG
        """Bytes of the longest frame of the driver's that is sent as it is."""
        self.most_pairs = pairs
        features = _ALWAYS | offloads
        if mtu is not None:
            features |= NetFeature.MTU
        if offloads & GUEST_OFFLOADS:
            features |= NetFeature.CTRL_GUEST_OFFLOADS
        if pairs > 1:
            features |= NetFeature.MQ
        self.features = int(features)
        self.queue_sizes = (QUEUE_SIZE,) * (2 * pairs + 1)
        self.is_link_up = True
        """True while the card has a link; the owner's to change, who then tells the core."""
        self.on_change: Callable[[], None] = _nothing
        self.resets = 0
        """Number of resets and restores: what was under way before is no more."""
        self.changes = 0
        """Number of changes of what the driver wants of the wire."""
        self.has_restored = False
        """True from a restore on: the driver is to look at the configuration."""
        self._forget()

    def _forget(self) -> None:
        self.mac = self._own_mac
        self.accepted = 0
        """Features that the driver has acknowledged, the core's as well."""
        self.negotiated = NO_NET_FEATURES
        self.offloads = NO_NET_FEATURES
        """Those of `GUEST_OFFLOADS` that are in force."""
        self.pairs = 1
        """Pairs of queues that the driver uses."""
        self.filter = ReceiveFilter()
        self.wants_announcement = False

    def change(self) -> None:
        """Tell that what the driver wants of the wire has changed."""
        self.changes += 1
        self.on_change()

    def config(self) -> bytes:
        """Address, status, number of pairs of queues, MTU."""
        status = _LINK_UP * self.is_link_up | _ANNOUNCE * self.wants_announcement
        return _CONFIG.pack(self.mac, status, self.most_pairs, self.mtu or 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing of it is the driver's to change."""

    def accept(self, features: int) -> bool:
        """Take features that have with them what they need."""
        if not is_consistent(features):
            return False
        self.accepted = features
        self.negotiated = NetFeature(features & self.features)
        self.offloads = self.negotiated & GUEST_OFFLOADS
        self.filter.vlans = frozenset() if features & NetFeature.CTRL_VLAN else None
        self.change()
        return True

    def role(self, queue: int) -> Role | None:
        """The work of a queue; None: none.

        The control queue is behind those that the driver could use (5.1.2).
        """
        pairs = self.most_pairs if self.negotiated & NetFeature.MQ else 1
        if queue < 2 * pairs:
            return Role.TRANSMIT if queue % 2 else Role.RECEIVE
        has_control = queue == 2 * pairs and self.negotiated & NetFeature.CTRL_VQ
        return Role.CONTROL if has_control else None

    def reset(self) -> None:
        """Be as made; the link is not the driver's."""
        self._forget()
        self.resets += 1
        self.change()

    def save(self) -> SavedNet:
        """Save what the driver has set."""
        from pyvmm.devices.virtio.saved_net import SavedNet  # Most devices are never saved.

        rules = self.filter
        return SavedNet(
            self.mac,
            self.pairs,
            int(self.offloads),
            int(rules.accepts),
            rules.unicast,
            rules.multicast,
            None if rules.vlans is None else tuple(sorted(rules.vlans)),
        )

    def restore(self, value: SavedNet) -> None:
        """Be as the card that was saved, and have the driver make itself known to who has not heard
        of it (5.1.6.5.4)."""
        self.mac = value.mac
        # Without MQ the control queue has the number that is the second pair's with it.
        most = self.most_pairs if self.negotiated & NetFeature.MQ else 1
        self.pairs = min(value.pairs, most)
        self.offloads = NetFeature(value.offloads) & self.negotiated & GUEST_OFFLOADS
        rules = self.filter
        rules.accepts = Accepts(value.accepts)
        rules.unicast, rules.multicast = value.unicast, value.multicast
        rules.vlans = None if value.vlans is None else frozenset(value.vlans)
        self.wants_announcement = bool(self.negotiated & NetFeature.GUEST_ANNOUNCE)
        self.has_restored = True
        self.resets += 1
        self.change()


def receive_queue(pair: int) -> int:
    """Number of the queue of frames for the driver."""
    return 2 * pair


def transmit_queue(pair: int) -> int:
    """Number of the queue of frames of the driver's."""
    return 2 * pair + 1


def _nothing() -> None:
    """Be no callback."""
