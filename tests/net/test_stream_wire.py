# SPDX-License-Identifier: MIT
"""Frames over a stream socket: each comes once and whole, however the bytes come."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pyvmm.net.frames import HEADER_SIZE, MOST_FRAME, WireEndedError
from pyvmm.net.stream_wire import StreamQueue, StreamWire

HEADER = bytes(10) + b"\1\0"


@dataclass(frozen=True)
class Pair:
    queue: StreamQueue
    ours: socket.socket
    peer: socket.socket

    def received(self, room: int = 2000) -> bytes:
        buffer = memoryview(bytearray(room))
        count = self.queue.receive([buffer[:7], buffer[7:20], buffer[20:]])
        return bytes(buffer[:count])

    def send(self, frame: bytes) -> None:
        self.queue.send([memoryview(HEADER)[:5], memoryview(HEADER)[5:], memoryview(frame)])

    def read_what_is_there(self) -> bytes:
        got = b""
        while select.select([self.peer], (), (), 0)[0]:
            got += self.peer.recv(1 << 20)
        return got

    @property
    def is_readable(self) -> bool:
        return bool(select.select([self.queue], (), (), 0)[0])


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, peer = socket.socketpair()
    with StreamWire(ours, why=lambda: "it is over") as wire, peer:
        peer.settimeout(60)
        yield Pair(wire.queues[0], ours, peer)


def packed(*frames: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


FRAMES = [bytes([number]) * (14 + 97 * number) for number in range(10)]


@pytest.mark.parametrize("step", [1, 3, 4, 5, 18, 19, 1000, 100_000])
def test_frames_come_whole_however_their_bytes_do(pair: Pair, step: int) -> None:
    data = packed(*FRAMES)
    got = []
    for at in range(0, len(data), step):
        pair.peer.sendall(data[at : at + step])
        while True:
            waiting = pair.is_readable
            try:
                got.append(pair.received())
            except BlockingIOError:
                break
            # Nobody is told of a frame that is here already.
            assert waiting
    assert got == [HEADER + frame for frame in FRAMES]


def test_what_is_no_frame_is_read_one_by_one(pair: Pair) -> None:
    # A peer that sends nothing else keeps nobody in here.
    frames = [b"", b"x" * 13, FRAMES[1], b"", b"", FRAMES[2], b""]
    pair.peer.sendall(packed(*frames))
    assert [pair.received() for _ in frames] == [HEADER + frame for frame in frames]
    with pytest.raises(BlockingIOError):
        pair.received()


def test_what_has_no_room_is_lost(pair: Pair) -> None:
    pair.peer.sendall(packed(FRAMES[9], FRAMES[1]))
    assert pair.received(100) == (HEADER + FRAMES[9])[:100]
    assert pair.queue.receive([]) == 0
    with pytest.raises(BlockingIOError):
        pair.received()


def test_the_longest_frame_and_one_that_is_longer(pair: Pair) -> None:
    longest = bytes(range(256)) * 257
    longest = longest[:MOST_FRAME]
    pair.send(longest[:60_000])
    got = b""
    while len(got) < 60_004:
        got += pair.peer.recv(1 << 17)
    assert got == packed(longest[:60_000])
    pair.peer.sendall(packed(longest))
    assert pair.received(1 << 17) == HEADER + longest
    pair.peer.sendall(struct.pack(">I", MOST_FRAME + 1))
    with pytest.raises(WireEndedError, match=f"a frame of {MOST_FRAME + 1} bytes"):
        pair.received()


LARGE = bytes(range(256)) * 200


def cut(pair: Pair) -> bytes:
    """Send frames, the last of which is larger than the room that there is; what the peer has
    then."""
    pair.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    pair.send(FRAMES[3])
    with pytest.raises(BlockingIOError):
        pair.send(LARGE)
    return pair.read_what_is_there()


def sent_at_last(pair: Pair, frame: bytes) -> bytes:
    """Send a frame again and again, as a card does; what the peer has read meanwhile."""
    got = b""
    while True:
        assert select.select((), [pair.queue], (), 60)[1]
        try:
            pair.send(frame)
        except BlockingIOError:
            got += pair.peer.recv(1 << 20)
        else:
            return got + pair.read_what_is_there()


def test_the_end_of_a_frame_goes_without_another(pair: Pair) -> None:
    got = cut(pair)
    assert len(packed(FRAMES[3])) < len(got) < len(packed(FRAMES[3], LARGE))
    got += sent_at_last(pair, LARGE)
    assert got == packed(FRAMES[3], LARGE)
    for _ in range(2):
        pair.send(FRAMES[3])
        assert pair.read_what_is_there() == packed(FRAMES[3])


def test_a_frame_that_was_cut_and_is_not_sent_again(pair: Pair) -> None:
    got = cut(pair)
    # The card was reset, say.
    got += sent_at_last(pair, FRAMES[4])
    assert got == packed(FRAMES[3], LARGE, FRAMES[4])


@pytest.mark.parametrize("size", [0, 13, MOST_FRAME + 1])
def test_runts_and_giants_are_refused(pair: Pair, size: int) -> None:
    with pytest.raises(OSError, match="too long") as caught:
        pair.send(bytes(size))
    assert caught.value.errno == errno.EMSGSIZE


def test_frames_that_leave_work_are_refused(pair: Pair) -> None:
    with pytest.raises(OSError, match="Invalid") as caught:
        pair.queue.send([memoryview(b"\1" + bytes(11)), memoryview(FRAMES[1])])
    assert caught.value.errno == errno.EINVAL
    pair.send(FRAMES[2])
    assert pair.peer.recv(1000) == packed(FRAMES[2])


def test_the_end_of_the_other_end(pair: Pair) -> None:
    pair.peer.sendall(packed(FRAMES[1]) + b"\0\0")
    pair.peer.close()
    assert pair.received() == HEADER + FRAMES[1]
    for _ in range(2):
        with pytest.raises(WireEndedError, match="it is over"):
            pair.received()
        with pytest.raises(WireEndedError, match="it is over"):
            pair.send(FRAMES[1])


def test_a_closed_wire_has_no_descriptor() -> None:
    ours, peer = socket.socketpair()
    with peer:
        wire = StreamWire(ours)
        wire.close()
        wire.close()
        assert wire.queues[0].fileno() == -1
        assert peer.recv(1) == b""
    assert len(HEADER) == HEADER_SIZE
