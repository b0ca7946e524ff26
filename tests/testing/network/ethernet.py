# SPDX-License-Identifier: MIT
"""A card of tests': sends and takes Ethernet frames at a port, in the place of a guest's."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from pyvmm.net.frames import HEADER_SIZE
from pyvmm.net.taps import TapWire
from pyvmm.testing.network.ports import Port

EVERYBODY = b"\xff" * 6
PATIENCE = 60.0
TEST_TYPE = 0x88B5
"""EtherType for experiments (IEEE 802)."""


class Card:
    """A card at a port, of which `fd` is the tap's descriptor."""

    def __init__(self, port: Port, fd: int) -> None:
        self.port = port
        self.fd = fd

    def send(self, to: bytes, payload: bytes, kind: int = TEST_TYPE) -> None:
        """Send a frame. Raises `OSError`, EIO where the port is down."""
        frame = to + self.port.mac + struct.pack("!H", kind) + payload.ljust(46, b"\0")
        os.write(self.fd, bytes(HEADER_SIZE) + frame)

    def frames(self, seconds: float = PATIENCE) -> Iterator[bytes]:
        """Frames without headers as they come, until none has come for `seconds`."""
        waiting = select.poll()
        waiting.register(self.fd, select.POLLIN)
        while waiting.poll(seconds * 1000):
            yield os.read(self.fd, 1 << 17)[HEADER_SIZE:]

    def next(self, kind: int = TEST_TYPE) -> bytes:
        """Wait for a frame of that type. Raises `AssertionError` where none comes."""
        for frame in self.frames():
            if struct.unpack_from("!H", frame, 12)[0] == kind:
                return frame
        raise AssertionError("no frame has come")

    def arp(self, ip: str) -> bytes:
        """Ask who has an address; the card's that answers."""
        own = socket.inet_aton(self.port.ip)
        question = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + self.port.mac + own
        self.send(EVERYBODY, question + bytes(6) + socket.inet_aton(ip), 0x0806)
        while True:
            answer = self.next(0x0806)
            if answer[20:22] == b"\0\2" and answer[28:32] == socket.inet_aton(ip):
                return answer[22:28]


@contextmanager
def card(port: Port) -> Iterator[Card]:
    """Put a card to a port."""
    with port.taken() as fds:
        TapWire(port.name, fds)  # Has frames have a header of 12 bytes; the descriptors stay.
        yield Card(port, fds[0])
