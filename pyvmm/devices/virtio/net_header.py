# SPDX-License-Identifier: MIT
"""The header before each frame of a network device (virtio 1.2, section 5.1.6). Pure."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct("<BBHHHHH")
HEADER_SIZE: Final = _HEADER.size
ETHERNET: Final = 14
"""Bytes of an Ethernet header: what is shorter is no frame."""
MOST_FRAME: Final = ETHERNET + 65_536
"""Bytes of the longest frame behind its header."""
COUNT_OFFSET: Final = 10
"""Offset of `FrameHeader.buffers`."""


class FrameHeader(NamedTuple):
    """A header's numbers as they are, whoever wrote them.

    `header_length`, `start` are bytes from the frame's first on, `offset` from `start` on;
    `segment` is the bytes of each segment's payload; `buffers` the chains that have the frame.
    """

    flags: int = 0
    kind: int = 0
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
