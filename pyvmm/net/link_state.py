# SPDX-License-Identifier: MIT
"""State of a network device, asked for without rtnetlink and what speaks it (netdevice(7))."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Final, NamedTuple

_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFMTU: Final = 0x8921
_IFREQ: Final = struct.Struct("16s24x")
_VALUE: Final = 16
"""Offset of the answer in it."""
_UP: Final = 1


class LinkState(NamedTuple):
    """State of a network device; `mtu` is in bytes."""

    is_up: bool
    mtu: int


def link_state(name: str) -> LinkState:
    """Ask for the state of a device of the calling thread's network namespace. Raises `OSError`."""
    asked = _IFREQ.pack(os.fsencode(name))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked), _VALUE)
        (mtu,) = struct.unpack_from("i", fcntl.ioctl(any_socket, _SIOCGIFMTU, asked), _VALUE)
    return LinkState(bool(flags & _UP), mtu)
