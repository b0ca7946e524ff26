# SPDX-License-Identifier: MIT
"""The guest `net` and a peer that does with frames what Linux would not do, or not when asked."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import pytest
import trio

from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.hardware import Hardware, NetCard, TapNet
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.net.namespaces import new_namespace, within
from tests.machine.guests import bundled
from tests.machine.in_trio import HANG, in_trio

pytestmark = [pytest.mark.net, pytest.mark.slow]

OURS, THEIRS = bytes.fromhex("020000000099"), bytes.fromhex("020000000001")
OUR_ADDRESS, THEIR_ADDRESS = bytes((10, 77, 0, 1)), bytes((10, 77, 0, 2))
PORT, ECHO = 1000, 7
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
FIRST = 0xFFFF_FFF0
"""Our beginning: numbers wrap in the middle of what is sent."""
TAP = "frames0"


class Segment(NamedTuple):
    port: int
    sequence: int
    acknowledged: int
    flags: int
    data: bytes


def checksum(data: bytes) -> int:
    """Of the Internet (RFC 1071); 0 for what has a right one in it."""
    total: int = sum(
        struct.unpack(f">{len(data) // 2 + len(data) % 2}H", data + bytes(len(data) % 2))
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


class Peer:
    """A socket at the tap: all that the guest sends can be read, and anything be sent to it."""

    def __init__(self, namespace: int) -> None:
        self._socket = within(
            namespace, partial(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0x0300)
        )
        self._socket.bind((TAP, 3))
        self._socket.settimeout(HANG)

    def close(self) -> None:
        self._socket.close()

    def send_frame(self, kind: int, data: bytes) -> None:
        self._socket.send(THEIRS + OURS + struct.pack(">H", kind) + data)

    def send(
        self, flags: int, sequence: int, acknowledged: int = 0, data: bytes = b"", wrong: int = 0
    ) -> None:
        """Send a segment, with a checksum that is wrong by so much."""

        def tcp(check: int) -> bytes:
            numbers = (sequence & 0xFFFF_FFFF, acknowledged & 0xFFFF_FFFF)
            rest = (5 << 4, flags, 8192, check, 0)
            return struct.pack(">HHIIBBHHH", PORT, ECHO, *numbers, *rest) + data

        addresses = OUR_ADDRESS + THEIR_ADDRESS
        right = checksum(addresses + struct.pack(">HH", 6, 20 + len(data)) + tcp(0))
        payload = tcp(right ^ wrong)

        def ip(check: int) -> bytes:
            return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 9, 6, check)

        header = ip(checksum(ip(0) + addresses)) + addresses
        self.send_frame(0x0800, header + payload)

    def receive(self) -> Segment:
        """Wait for the guest's next segment."""
        while True:
            frame = self._socket.recv(2000)
            if frame[6:12] != THEIRS or frame[12:14] != b"\x08\0" or frame[23] != 6:
                continue
            length = struct.unpack(">H", frame[16:18])[0]
            assert checksum(frame[14:34]) == 0
            tcp = frame[34 : 14 + length]
            assert checksum(frame[26:34] + struct.pack(">HH", 6, len(tcp)) + tcp) == 0
            port, sequence, acknowledged, words, flags = struct.unpack(">2xHIIBB", tcp[:14])
            return Segment(port, sequence, acknowledged, flags, tcp[words // 16 * 4 :])

    def receive_data(self) -> Segment:
        """Wait for a segment with data, or the end."""
        while True:
            segment = self.receive()
            if segment.data or segment.flags & FIN:
                return segment


@pytest.fixture
def namespace() -> Iterator[int]:
    namespace = new_namespace()
    yield namespace
    os.close(namespace)


def converse(peer: Peer) -> None:
    """A connection with everything that goes wrong on the way."""
    peer.send(SYN, FIRST + 5, wrong=1)
    peer.send(SYN, FIRST)
    asked = peer.receive()
    assert asked.flags == SYN | ACK
    assert (asked.port, asked.acknowledged) == (PORT, (FIRST + 1) & 0xFFFF_FFFF)
    # Our acknowledgement was lost, or the guest's answer.
    peer.send(SYN, FIRST)
    assert peer.receive() == asked
    ours, theirs = FIRST + 1, asked.sequence + 1
    peer.send(ACK, ours, theirs)
    # What is of the future is not taken; who sends it is told what is missing.
    peer.send(ACK | PSH, ours + 10, theirs, b"of a sentence")
    while (missed := peer.receive()) == asked:
        pass  # It was not sure.
    assert (missed.flags, missed.acknowledged, missed.data) == (ACK, ours & 0xFFFF_FFFF, b"")
    peer.send(ACK | PSH, ours, theirs, b"The middle of")
    echoed = peer.receive_data()
    assert (echoed.sequence, echoed.data) == (theirs & 0xFFFF_FFFF, b"The middle of")
    assert echoed.acknowledged == (ours + 13) & 0xFFFF_FFFF
    # What nobody acknowledges comes again.
    again = peer.receive_data()
    assert (again.sequence, again.data) == (echoed.sequence, echoed.data)
    # What is known in part is taken in part, and the end behind it.
    peer.send(ACK | PSH | FIN, ours + 11, theirs + 13, b"of a sentence")
    while (rest := peer.receive_data()).sequence == echoed.sequence:
        pass
    assert (rest.sequence, rest.data) == ((theirs + 13) & 0xFFFF_FFFF, b" a sentence")
    assert rest.acknowledged == (ours + 25) & 0xFFFF_FFFF
    end = rest if rest.flags & FIN else peer.receive_data()
    assert (end.sequence, end.flags) == ((theirs + 24) & 0xFFFF_FFFF, FIN | ACK)
    peer.send(ACK, ours + 25, theirs + 25)
    # Nobody knows it any more.
    peer.send(ACK, ours + 25, theirs + 25)
    while not peer.receive().flags & RST:
        pass


def claim_its_address(peer: Peer) -> None:
    """Another host says that it has the guest's address."""
    header = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)
    peer.send_frame(0x0806, header + OURS + THEIR_ADDRESS + bytes(6) + THEIR_ADDRESS)


@in_trio
async def test_what_goes_wrong_on_the_way(namespace: int) -> None:
    wire = TapNet(name=TAP, netns=f"/proc/{os.getpid()}/fd/{namespace}")
    config = MachineConfig(
        bundled("net"),
        memory=2 * MIB,
        command_line=b"ip=10.77.0.2/24 offload=0",
        host=HostChoice.MODEL,
        hardware=Hardware(cards=(NetCard(wire, mac=THEIRS),)),
        timeout=HANG,
    )
    async with open_machine(config) as machine:
        assert await machine.console.wait_for(b", gateway ")
        peer = Peer(namespace)
        try:
            await trio.to_thread.run_sync(converse, peer)
            claim_its_address(peer)
        finally:
            peer.close()
        assert await machine.console.wait_for(b"10.77.0.2 is also at 02:00:00:00:00:99\n")
        machine.control.interrupt()
        await machine.control.wait()
