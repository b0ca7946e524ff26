# SPDX-License-Identifier: MIT
"""A virtio socket device (virtio 1.2, section 5.10): packets, configuration, events. Pure."""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from pyvmm.devices.virtio.buffers import first, split

DEVICE_ID: Final = 19
QUEUE_SIZE: Final = 128
RECEIVE: Final = 0
"""Queue of packets for the driver."""
TRANSMIT: Final = 1
"""Queue of packets of the driver's."""
EVENTS: Final = 2
HOST_CID: Final = 2
FIRST_CID: Final = 3
"""Context IDs below are nobody's, this machine's, and the host's."""
MOST_CID: Final = 0xFFFF_FFFE
"""A context ID has 64 bits, of which the upper 32 are 0; all ones is any."""
MOST_PAYLOAD: Final = 1 << 16
"""Bytes of a packet's data: what Linux sends at most."""
_CONFIG: Final = struct.Struct("<Q")
_HEADER: Final = struct.Struct("<QQIIIHHIII")
HEADER_SIZE: Final = _HEADER.size
_TRANSPORT_RESET: Final = struct.pack("<I", 0)


class VsockFeature(enum.IntFlag):
    """Features of a socket device (5.10.3)."""

    STREAM = 1 << 0


class Kind(enum.IntEnum):
    """Types of sockets (5.10.6.4) that there are here."""

    STREAM = 1


class Operation(enum.IntEnum):
    """Operations of packets (5.10.6)."""

    REQUEST = 1
    RESPONSE = 2
    RESET = 3
    SHUTDOWN = 4
    DATA = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Shutdown(enum.IntFlag):
    """Directions that a side is done with."""

    RECEIVES = 1
    SENDS = 2


class Packet(NamedTuple):
    """A packet's header: numbers as they are, whoever wrote them.

    `allocated` bytes are the sender's buffer for the connection, of which `forwarded` (modulo
    2**32) have left it since the beginning.
    """

    source_cid: int
    target_cid: int
    source_port: int
    target_port: int
    length: int
    kind: int
    operation: int
    flags: int = 0
    allocated: int = 0
    forwarded: int = 0

    def encoded(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(*self)


def parse_packet(views: Sequence[memoryview]) -> tuple[Packet, bytes | None]:
    """Copy a packet out of a chain: its header once, and as much data as that says.

    The data is None where the chain has less, or a packet may not have so much. Raises `ValueError`
    for what is shorter than a header.
    """
    head, rest = split(views, HEADER_SIZE)
    if len(head) < HEADER_SIZE:
        raise ValueError("it has no header")
    packet = Packet(*_HEADER.unpack(head))
    if packet.length > min(MOST_PAYLOAD, sum(map(len, rest))):
        return packet, None
    return packet, b"".join(first(rest, packet.length))


class _ResetEvent(enum.Enum):
    """State of the event that says that all connections are gone."""

    NONE = "none"
    WANTED = "wanted"
    SENT = "sent"


class VsockModel:
    """A `DeviceModel` of a socket device whose guest has the context ID `guest_cid`.

    Connections are the handler's; they end whenever `resets` changes, which `on_change` tells.
    """

    kind = DEVICE_ID
    features = int(VsockFeature.STREAM)
    queue_sizes = (QUEUE_SIZE,) * 3

    def __init__(self, guest_cid: int) -> None:
        self.guest_cid = guest_cid
        self.resets = 0
        self.on_change: Callable[[], None] = _nothing
        self._event = _ResetEvent.NONE

    def config(self) -> bytes:
        """The guest's context ID.

        After a restore the driver fetches it again (5.10.6.7), and so says that it has seen that
        all connections are gone.
        """
        if self._event is _ResetEvent.SENT:
            self._event = _ResetEvent.NONE
            self.on_change()
        return _CONFIG.pack(self.guest_cid)

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing of it is the driver's to change."""

    def accept(self, features: int) -> bool:  # noqa: ARG002
        """Streams are there whatever the driver takes."""
        return True

    def reset(self) -> None:
        """No connection is left."""
        self._event = _ResetEvent.NONE
        self.resets += 1
        self.on_change()

    def save(self) -> None:
        """Connections are not saved: what is at their other end is not either."""

    def restore(self, value: None) -> None:
        """Have the driver told that no connection is left, before it gets any packet."""
        del value
        self.resets += 1
        self._event = _ResetEvent.WANTED
        self.on_change()

    @property
    def has_event(self) -> bool:
        """True while there is an event for the driver."""
        return self._event is _ResetEvent.WANTED

    @property
    def is_gated(self) -> bool:
        """True from a restore until the driver has seen that: no packet is for it meanwhile."""
        return self._event is not _ResetEvent.NONE

    def next_event(self) -> bytes:
        """Take the event; b"" if there is none."""
        if self._event is not _ResetEvent.WANTED:  # A reset has come between.
            return b""
        self._event = _ResetEvent.SENT
        return _TRANSPORT_RESET


def _nothing() -> None:
    """Be no callback."""
