# SPDX-License-Identifier: MIT
"""The guest `net` at a port of a test's network: what it is told, and what it says."""

from __future__ import annotations

import socket

from pyvmm.testing import Network, Port


def at(port: Port, *more: str) -> str:
    """Command line of a guest at a port."""
    return " ".join((f"ip={port.address}", *more))


def echo(network: Network, port: Port, text: bytes = b"are you there?") -> bytes:
    """Say something to the guest, which says it again."""
    with network.socket(kind=socket.SOCK_DGRAM) as ours:
        ours.settimeout(60)
        ours.sendto(text, (port.ip, 7))
        return ours.recv(2048)
