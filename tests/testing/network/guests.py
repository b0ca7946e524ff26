# SPDX-License-Identifier: MIT
"""The guest `net` at a port of a test's network: what it is told, and what it says."""

from __future__ import annotations

import re
import socket
from contextlib import suppress

from pyvmm.testing import Network, Port

PATIENCE = 60.0
ANSWERED = re.compile(r"ping (\d+) is answered")
"""Said of each ping that was; on a busy machine one may not be, within its second."""


def at(port: Port, *more: str) -> str:
    """Command line of a guest at a port."""
    return " ".join((f"ip={port.address}", *more))


def echo(network: Network, port: Port, text: bytes = b"are you there?") -> bytes:
    """Say something to the guest, which says it again."""
    with network.socket(kind=socket.SOCK_DGRAM) as ours:
        ours.settimeout(PATIENCE / 12)
        for _ in range(12):
            # Again: the kernel asks for a neighbour three times, and then drops what was for it.
            ours.sendto(text, (port.ip, 7))
            with suppress(TimeoutError):
                return ours.recv(2048)
        raise AssertionError(f"{port} says nothing")
