# SPDX-License-Identifier: MIT
"""Linux' own network stack as the peer of the guest `net`, in a namespace of a test's."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from pyvmm.net.links import opened_links
from pyvmm.net.marks import RUN, Mark
from pyvmm.net.namespaces import within
from pyvmm.net.taps import open_tap

STATION = "10.77.0.1"
GUEST = "10.77.0.2"
APPEND = f"ip={GUEST}/24 "
READY = b", gateway "
"""What the guest prints when it has its address."""
ECHO, DISCARD, CHARGEN = 7, 9, 19
PATIENCE = 60.0
_PERIOD = bytes((at * 7 + (at >> 8) * 13) & 0xFF for at in range(4096))


class Station:
    """A network namespace, in which a tap has the address `STATION`."""

    def __init__(self, netns: int) -> None:
        self.netns = netns
        self.path = f"/proc/{os.getpid()}/fd/{netns}"

    def endpoint(self, kind: socket.SocketKind, protocol: int = 0) -> socket.socket:
        """Make a socket of IPv4 that is in the namespace."""
        made = within(self.netns, partial(socket.socket, socket.AF_INET, kind, protocol))
        made.settimeout(PATIENCE)
        return made

    def connect(self, port: int) -> socket.socket:
        """Connect to the guest."""
        made = self.endpoint(socket.SOCK_STREAM)
        made.connect((GUEST, port))
        return made

    def datagrams(self, port: int) -> socket.socket:
        """Make a UDP socket whose datagrams go to that port of the guest's."""
        made = self.endpoint(socket.SOCK_DGRAM)
        made.connect((GUEST, port))
        return made


@contextmanager
def tap_for_others(station: Station) -> Iterator[int]:
    """Open a tap with `STATION` on it, for a child that is given its descriptor."""

    def make() -> int:
        opened = open_tap("station0")
        with opened_links() as links:
            tap = links.find("station0")
            assert tap
            links.add_address(tap, f"{STATION}/24")
            links.change(tap, mark=Mark(RUN, str(os.getpid())), is_up=True)
        return opened.fds[0]

    fd = within(station.netns, make)
    try:
        yield fd
    finally:
        os.close(fd)


def echoes_a_stream(station: Station, size: int) -> None:
    """Port 7 gives back `size` bytes, and the end."""
    sent = os.urandom(size)
    with station.connect(ECHO) as stream:

        def send() -> None:
            stream.sendall(sent)
            stream.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            assert b"".join(iter(partial(stream.recv, 1 << 16), b"")) == sent
        finally:
            sender.join()


def discards(station: Station, size: int) -> None:
    """Port 9 takes `size` bytes and ends when we do."""
    with station.connect(DISCARD) as stream:
        stream.sendall(bytes(size))
        stream.shutdown(socket.SHUT_WR)
        assert stream.recv(1) == b""


def sends_without_end(station: Station, size: int) -> None:
    """Port 19 sends `size` bytes and more, all as they have to be, until we end."""
    with station.connect(CHARGEN) as stream:
        got = bytearray()
        while len(got) < size:
            got += stream.recv(1 << 20)
        assert bytes(got) == (_PERIOD * (len(got) // len(_PERIOD) + 1))[: len(got)]


def refuses(station: Station) -> None:
    """Nobody is at port 8."""
    with station.endpoint(socket.SOCK_STREAM) as stream:
        assert stream.connect_ex((GUEST, 8)) == 111  # ECONNREFUSED


def echoes_datagrams(station: Station) -> None:
    """Port 7 gives back what came: as short and as long as there are."""
    with station.datagrams(ECHO) as peer:
        for size in (0, 1, 18, 1001, 1472):
            sent = os.urandom(size)
            peer.send(sent)
            assert peer.recv(2000) == sent


def counts_datagrams(station: Station) -> None:
    """Port 9 says how many came, and their bytes."""
    with station.datagrams(DISCARD) as peer:
        for size in (1, 2, 300):
            peer.send(bytes(size))
        peer.send(b"")
        assert struct.unpack("=QQ", peer.recv(100)) == (3, 303)


def floods(station: Station, count: int) -> None:
    """Port 19 sends so many datagrams, in order."""
    with station.datagrams(CHARGEN) as peer:
        peer.send(struct.pack("=II", count, 64))
        for number in range(count):
            datagram = peer.recv(2000)
            assert (len(datagram), *struct.unpack("=I", datagram[:4])) == (64, number)


def _icmp(kind: int, sequence: int, data: bytes) -> bytes:
    def packed(checksum: int) -> bytes:
        return struct.pack(">BBHHH", kind, 0, checksum, 77, sequence) + data

    total = sum(struct.unpack(f">{4 + len(data) // 2}H", packed(0)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return packed(total ^ 0xFFFF)


def answers_pings(station: Station) -> None:
    """ICMP's echo is answered with what came."""
    with station.endpoint(socket.SOCK_RAW, socket.IPPROTO_ICMP) as peer:
        for sequence, size in enumerate((0, 56, 1472)):
            data = os.urandom(size)
            peer.sendto(_icmp(8, sequence, data), (GUEST, 0))
            answer = peer.recv(2000)
            while answer[20] != 0:
                answer = peer.recv(2000)
            assert answer[20:] == _icmp(0, sequence, data)


def end(station: Station) -> None:
    """Have the guest end."""
    with station.datagrams(ECHO) as peer:
        peer.send(b"end")
        assert peer.recv(100) == b"end"


def does_it_all(station: Station, size: int) -> None:
    """Everything that the guest does for its peers; `size` is of the streams, in bytes."""
    answers_pings(station)
    echoes_datagrams(station)
    counts_datagrams(station)
    floods(station, 100)
    echoes_a_stream(station, size)
    discards(station, size)
    sends_without_end(station, size)
    refuses(station)
    end(station)
