# SPDX-License-Identifier: MIT
"""Files of captured frames as libpcap has them (pcap-savefile(5)), times in nanoseconds. Pure."""

from __future__ import annotations

import struct
from typing import Final

ETHERNET: Final = 1
"""LINKTYPE_ETHERNET."""
SNAP_LENGTH: Final = 262_144
_NANOSECONDS: Final = 0xA1B2_3C4D
_SECOND: Final = 1_000_000_000
_HEADER: Final = struct.Struct("<IHHiIII")
_RECORD: Final = struct.Struct("<IIII")

FILE_HEADER: Final = _HEADER.pack(_NANOSECONDS, 2, 4, 0, 0, SNAP_LENGTH, ETHERNET)


def record_header(time_ns: int, size: int) -> bytes:
    """Make what stands before a frame of `size` bytes that was seen at that time since 1970."""
    seconds, rest = divmod(time_ns, _SECOND)
    return _RECORD.pack(seconds & 0xFFFF_FFFF, rest, size, size)
