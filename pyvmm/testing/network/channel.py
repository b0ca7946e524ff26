# SPDX-License-Identifier: MIT
"""Messages with descriptors over a socket pair, one packet each (SOCK_SEQPACKET, SCM_RIGHTS)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence

_DESCRIPTOR = struct.Struct("i")
MOST_BYTES = 1 << 16
"""Bytes of the longest message."""
MOST_DESCRIPTORS = 64
"""Descriptors of one message; Linux takes at most 253 (SCM_MAX_FD)."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends. Raises `OSError`."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, data: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a message; the descriptors stay their owner's. Raises `OSError`."""
    if descriptors:
        socket.send_fds(channel, [data], list(descriptors))
    else:
        channel.send(data)


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Wait for a message; its descriptors, close-on-exec, are the caller's from then on.

    b"" at the end of the channel. Raises `OSError`, with nothing received.
    """
    # Not socket.recv_fds, which has no use for its flags (Python 3.11).
    room = socket.CMSG_SPACE(MOST_DESCRIPTORS * _DESCRIPTOR.size)
    data, ancillary, flags, _ = channel.recvmsg(MOST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = [
        number
        for level, kind, rights in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (number,) in _DESCRIPTOR.iter_unpack(rights[: len(rights) & -_DESCRIPTOR.size])
    ]
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        close_all(descriptors)
        raise OSError(0, "a message is longer than any that there is")
    return data, descriptors


def close_all(descriptors: Sequence[int]) -> None:
    """Close them."""
    for descriptor in descriptors:
        os.close(descriptor)
