# SPDX-License-Identifier: MIT
"""Frames that a driver wants to get (virtio 1.2, sections 5.1.6.5.1 to 5.1.6.5.3). Pure.

A driver may get others as well: an engine of the host's, or its kernel, does not look.
"""

from __future__ import annotations

import enum
from typing import Final

from pyvmm.devices.virtio.net_header import ETHERNET, TAG

BROADCAST: Final = b"\xff" * 6
MOST_ADDRESSES: Final = 64
"""Addresses of a table of one kind; with more, all of that kind are taken (as QEMU)."""
VLANS: Final = 4096
_TAGGED: Final = b"\x81\x00"
_ID: Final = 0x0FFF


class Accepts(enum.IntFlag):
    """Kinds of frames that are taken, or not, whatever the tables have.

    The first six are by the number of their commands.
    """

    ALL = 1 << 0
    ALL_MULTICAST = 1 << 1
    ALL_UNICAST = 1 << 2
    NO_MULTICAST = 1 << 3
    NO_UNICAST = 1 << 4
    NO_BROADCAST = 1 << 5
    MANY_UNICAST = 1 << 6
    """The table had no room."""
    MANY_MULTICAST = 1 << 7


class ReceiveFilter:
    """The wishes of a driver: `accepts`, tables of addresses, and VLANs; None: all of these."""

    def __init__(self) -> None:
        self.accepts = Accepts.ALL
        self.unicast: tuple[bytes, ...] = ()
        self.multicast: tuple[bytes, ...] = ()
        self.vlans: frozenset[int] | None = None

    def set(self, which: Accepts, *, on: bool) -> None:
        """Change one kind."""
        self.accepts = self.accepts | which if on else self.accepts & ~which

    def set_tables(self, unicast: tuple[bytes, ...], multicast: tuple[bytes, ...]) -> None:
        """Have addresses taken, of 6 bytes each."""
        many_unicast, many_multicast = (
            len(table) > MOST_ADDRESSES for table in (unicast, multicast)
        )
        self.unicast = () if many_unicast else unicast
        self.multicast = () if many_multicast else multicast
        self.set(Accepts.MANY_UNICAST, on=many_unicast)
        self.set(Accepts.MANY_MULTICAST, on=many_multicast)

    def wants(self, head: bytes, mac: bytes) -> bool:
        """Tell whether a frame that begins with `head` is for a card with the address `mac`."""
        accepts = self.accepts
        if accepts & Accepts.ALL:
            return True
        if self.vlans is not None and head[ETHERNET - 2 : ETHERNET] == _TAGGED:
            tag = int.from_bytes(head[ETHERNET : ETHERNET + TAG - 2], "big") & _ID
            if tag not in self.vlans:
                return False
        target = head[: len(mac)]
        if target == BROADCAST:
            return not accepts & Accepts.NO_BROADCAST
        if target[:1] and target[0] & 1:
            if accepts & Accepts.NO_MULTICAST:
                return False
            some = accepts & (Accepts.ALL_MULTICAST | Accepts.MANY_MULTICAST)
            return bool(some) or target in self.multicast
        if accepts & Accepts.NO_UNICAST:
            return False
        some = accepts & (Accepts.ALL_UNICAST | Accepts.MANY_UNICAST)
        return bool(some) or target == mac or target in self.unicast
