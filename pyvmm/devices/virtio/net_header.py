# SPDX-License-Identifier: MIT
"""The header before each frame of a network device (virtio 1.2, section 5.1.6). Pure.

A driver's header is a claim about its frame. It is checked as Linux' ``virtio_net_hdr_to_skb``
(include/linux/virtio_net.h) does, and by what was negotiated; and what is passed on says no more.
"""

from __future__ import annotations

import enum
import struct
from typing import Final, NamedTuple

from pyvmm.devices.virtio.net_features import NetFeature

_HEADER: Final = struct.Struct("<BBHHHHH")
HEADER_SIZE: Final = _HEADER.size
ETHERNET: Final = 14
"""Bytes of an Ethernet header: what is shorter is no frame."""
TAG: Final = 4
"""Bytes of a VLAN's tag."""
MOST_FRAME: Final = ETHERNET + 65_536
"""Bytes of the longest frame behind its header."""
HEAD: Final = ETHERNET + 2 * TAG
"""Bytes of a frame, from its first on, that checks look at."""
NEEDS_CHECKSUM: Final = 1
DATA_VALID: Final = 2
ECN: Final = 0x80
"""Bit of `FrameHeader.kind` beside TCP's."""
_TAGS: Final = (b"\x81\x00", b"\x88\xa8")
_TCP: Final = 20
_UDP: Final = 8
_TCP_CHECKSUM: Final = 16
_UDP_CHECKSUM: Final = 6


class Segments(enum.IntEnum):
    """Kinds of frames that are to be cut into segments."""

    NONE = 0
    TCP4 = 1
    TCP6 = 4
    UDP = 5


class _Kind(NamedTuple):
    """Kind of frame: what it takes to send one, to be sent one of each protocol, and its checksum's
    place; Ethernet types of its packets."""

    host: NetFeature
    guest: NetFeature
    header: int
    checksum: int
    protocols: tuple[bytes, ...]


_IP4: Final = b"\x08\x00"
_IP6: Final = b"\x86\xdd"
_KINDS: Final = {
    Segments.TCP4: _Kind(NetFeature.HOST_TSO4, NetFeature.GUEST_TSO4, _TCP, _TCP_CHECKSUM, (_IP4,)),
    Segments.TCP6: _Kind(NetFeature.HOST_TSO6, NetFeature.GUEST_TSO6, _TCP, _TCP_CHECKSUM, (_IP6,)),
    Segments.UDP: _Kind(
        NetFeature.HOST_USO,
        NetFeature.GUEST_USO4 | NetFeature.GUEST_USO6,
        _UDP,
        _UDP_CHECKSUM,
        (_IP4, _IP6),
    ),
}


class FrameHeader(NamedTuple):
    """A header's numbers as they are, whoever wrote them.

    `header_length`, `start` are bytes from the frame's first on, `offset` from `start` on;
    `segment` is the bytes of each segment's payload; `buffers` the chains that have the frame.
    """

    flags: int = 0
    kind: int = Segments.NONE
    header_length: int = 0
    segment: int = 0
    start: int = 0
    offset: int = 0
    buffers: int = 1

    def encoded(self) -> bytes:
        """The header's bytes."""
        return _HEADER.pack(*self)


def parse_header(data: bytes) -> FrameHeader:
    """Take a header of `HEADER_SIZE` bytes apart."""
    return FrameHeader(*_HEADER.unpack(data))


PLAIN: Final = FrameHeader().encoded()
"""Header of a frame that needs nothing done."""


def checked_outgoing(
    header: FrameHeader, head: bytes, size: int, features: int, longest: int
) -> bytes | None:
    """The header to send a driver's frame with; None for one that claims what cannot be.

    `head` is a copy of the frame's first `HEAD` bytes, or all that it has; `size` its bytes;
    `features` those that were negotiated; `longest` the bytes of the longest frame that is not to
    be cut.
    """
    if not ETHERNET <= size <= (longest if header.kind == Segments.NONE else MOST_FRAME):
        return None
    if not header.flags & NEEDS_CHECKSUM:
        return PLAIN if header.kind == Segments.NONE else None
    start, offset = header.start, header.offset
    if not features & NetFeature.CSUM or start < ETHERNET or start + offset + 2 > size:
        return None
    if header.kind == Segments.NONE:
        return FrameHeader(NEEDS_CHECKSUM, start=start, offset=offset).encoded()
    kind = _KINDS.get(_segments(header.kind))
    if (
        kind is None
        or not features & kind.host
        or (header.kind & ECN and not features & NetFeature.HOST_ECN)
        or not header.segment
        or offset != kind.checksum
        or start + kind.header > size
        or _protocol(head) not in kind.protocols
    ):
        return None
    return header._replace(
        flags=NEEDS_CHECKSUM, header_length=min(header.header_length, size), buffers=1
    ).encoded()


def checked_incoming(header: FrameHeader, buffers: int, features: int) -> bytes | None:
    """The header of a frame for the driver, which is in so many chains; None for a frame that needs
    more done than the driver has said that it does. `features` are those in force."""
    has_checksums = features & NetFeature.GUEST_CSUM
    if header.kind != Segments.NONE:
        kind = _KINDS.get(_segments(header.kind))
        is_refused = header.kind & ECN and not features & NetFeature.GUEST_ECN
        if kind is None or features & kind.guest != kind.guest or is_refused:
            return None
    if header.flags & NEEDS_CHECKSUM and not has_checksums:
        return None
    flags = header.flags & (NEEDS_CHECKSUM | DATA_VALID) if has_checksums else 0
    return header._replace(flags=flags, buffers=buffers).encoded()


def _segments(kind: int) -> Segments:
    """Kind of segments; NONE for what is none, and for UDP's with ECN."""
    for one in (Segments.TCP4, Segments.TCP6):
        if kind & ~ECN == one:
            return one
    return Segments.UDP if kind == Segments.UDP else Segments.NONE


def _protocol(head: bytes) -> bytes:
    """Ethernet type of a frame, behind up to two tags."""
    at = ETHERNET - 2
    for _ in range(2):
        if head[at : at + 2] in _TAGS:
            at += TAG
    return head[at : at + 2]
