# SPDX-License-Identifier: MIT
"""Accepting of clients of a listening socket, for as long as somebody serves there."""

from __future__ import annotations

import socket
from typing import Final

import trio

_OUT_OF_DESCRIPTORS: Final = 0.1
"""Seconds until it is tried again, where no descriptor is left for a client."""


async def accepted(listener: socket.socket) -> socket.socket:
    """Wait for the next client of `listener`, which does not block: its socket, which does not."""
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            connection, _address = listener.accept()
        except BlockingIOError:
            continue  # It did not wait for us.
        except OSError:
            await trio.sleep(_OUT_OF_DESCRIPTORS)
            continue
        connection.setblocking(False)
        return connection
