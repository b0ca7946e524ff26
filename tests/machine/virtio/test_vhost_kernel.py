# SPDX-License-Identifier: MIT
"""vhost-net itself, on rings in this process's memory, between a driver of ours and a tap."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pyvmm.hosts.eventfd import Eventfd
from pyvmm.net.namespaces import new_namespace, within
from pyvmm.net.taps import TapWire, open_tap
from pyvmm.net.vhost import NEEDED, RECEIVE, TRANSMIT, HostRegion, VhostRing, open_vhost
from tests.devices.virtio.driver import Element, Place, SplitDriver

pytestmark = [pytest.mark.kvm, pytest.mark.vhost]

HANG = 60.0
SIZE = 8
PAGE = 0x1000
BASE = 0x4000_0000
"""GPA of the memory: not 0, so that GPAs are no offsets by chance."""
BYTES = 64 * PAGE
PLACES = {RECEIVE: PAGE, TRANSMIT: 4 * PAGE}
BUFFERS = 8 * PAGE
HEADER = bytes(12)
OURS = 0x88B5
"""EtherType for experiments (IEEE 802): nobody else sends it."""
_SIOCSIFFLAGS = 0x8914
_UP = 1


def frame(content: bytes) -> bytes:
    return b"\x02\x00\x00\x00\x00\x01" + b"\x02\x00\x00\x00\x00\x02" + OURS.to_bytes(2) + content


class Shifted(SplitDriver):
    """A driver whose GPAs begin at `BASE`."""

    def _rows(self, base: int, rows: list[tuple[int, int, int]], numbers: list[int]) -> None:
        super()._rows(base, [(gpa + BASE, length, flags) for gpa, length, flags in rows], numbers)


class Bench:
    """A device, its memory, a tap that is up, and a socket at the kernel's end of the tap."""

    def __init__(self, stack: ExitStack) -> None:
        self.memory = mmap.mmap(-1, BYTES)
        whole = (ctypes.c_char * BYTES).from_buffer(self.memory)
        self.hva = ctypes.addressof(whole)
        namespace = new_namespace()
        stack.callback(os.close, namespace)
        tap = within(namespace, lambda: open_tap(None))
        self.wire = stack.enter_context(TapWire(tap.name, tap.fds))
        self.end = within(namespace, lambda: _raw_socket(tap.name))
        stack.callback(self.end.close)
        self.vhost = stack.enter_context(open_vhost())
        self.kick, self.call, self.error = (stack.enter_context(Eventfd()) for _ in range(3))
        memory: Any = self.memory
        self.drivers = {
            number: Shifted(memory, Place(SIZE, at, at + PAGE, at + 2 * PAGE), events=False)
            for number, at in PLACES.items()
        }
        self.vhost.set_up(NEEDED, [HostRegion(BASE, BYTES, self.hva)])

    def start(self, number: int, position: int = 0) -> None:
        at = self.hva + PLACES[number]
        self.vhost.start(
            number,
            VhostRing(
                SIZE, at, at + PAGE, at + 2 * PAGE, position,
                kick=self.kick.fileno(), call=self.call.fileno(), error=self.error.fileno(),
                tap=self.wire.descriptors[0],
            ),
        )  # fmt: skip

    def used(self, number: int) -> list[tuple[int, int]]:
        """The next buffers that come back."""
        while True:
            self.call.drain()
            if found := self.drivers[number].collect():
                return [(one.token, one.written) for one in found]
            assert select.select([self.call, self.error], (), (), HANG)[0] == [self.call]

    def send(self, content: bytes) -> None:
        """Have a frame sent by the driver."""
        parts = (HEADER, frame(content))
        self.memory[BUFFERS : BUFFERS + sum(map(len, parts))] = b"".join(parts)
        elements = [
            Element(BUFFERS, len(HEADER), writable=False),
            Element(BUFFERS + len(HEADER), len(parts[1]), writable=False),
        ]
        self.drivers[TRANSMIT].add(elements)
        self.kick.signal()

    def sent(self) -> bytes:
        """The next frame that comes out of the tap."""
        assert select.select([self.end], (), (), HANG)[0]
        return self.end.recv(4096)


def _raw_socket(name: str) -> socket.socket:
    """Take a device up; a socket that sees and sends our frames on it."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(OURS))
    fcntl.ioctl(made, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), _UP))
    made.bind((name, OURS))
    return made


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


def test_frames_go_both_ways_and_on_after_a_stop(bench: Bench) -> None:
    room = [Element(BUFFERS + (1 + number) * PAGE, 2048, writable=True) for number in range(4)]
    for one in room:
        bench.drivers[RECEIVE].add([one])
    bench.start(RECEIVE)
    bench.start(TRANSMIT)
    assert bench.vhost.running == {RECEIVE, TRANSMIT}
    position = 0
    for number in range(3):
        bench.send(bytes([number]) * 100)
        assert bench.sent() == frame(bytes([number]) * 100)
        assert bench.used(TRANSMIT) == [(number, 0)]
        content = frame(bytes([0x80 + number]) * 1000)
        bench.end.send(content)
        [(token, written)] = bench.used(RECEIVE)
        assert (token, written) == (number, len(HEADER) + len(content))
        at = room[number].gpa
        assert bench.memory[at + len(HEADER) : at + written] == content
        assert bench.memory[at + 10 : at + 12] == b"\1\0", "one buffer has all of it"
        # As for a saving: it goes on where it was, and nothing is sent twice.
        position = bench.vhost.stop(TRANSMIT)
        assert position == number + 1
        assert bench.vhost.stop(RECEIVE) == number + 1
        bench.start(RECEIVE, position)
        bench.start(TRANSMIT, position)
    # What is made available while it is stopped is found when it starts, though nobody rings.
    bench.vhost.stop(TRANSMIT)
    bench.send(b"meanwhile" * 10)
    bench.kick.drain()
    bench.start(TRANSMIT, position)
    assert bench.sent() == frame(b"meanwhile" * 10)


def test_a_frame_is_put_into_as_many_buffers_as_it_needs(bench: Bench) -> None:
    room = [Element(BUFFERS + (1 + number) * PAGE, 512, writable=True) for number in range(4)]
    for one in room:
        bench.drivers[RECEIVE].add([one])
    bench.start(RECEIVE)
    content = frame(bytes(range(256)) * 5)
    bench.end.send(content)
    used: list[tuple[int, int]] = []
    while len(used) < 3:
        used += bench.used(RECEIVE)
    assert [token for token, _ in used] == [0, 1, 2]
    got = b"".join(
        bench.memory[room[token].gpa : room[token].gpa + written] for token, written in used
    )
    assert got[12:] == content
    assert got[10:12] == b"\3\0"


@pytest.mark.parametrize("number", [RECEIVE, TRANSMIT])
def test_a_ring_that_cannot_be_understood_is_told_of(bench: Bench, number: int) -> None:
    driver = bench.drivers[number]
    # The index is further than there are descriptors.
    driver.put(driver.place.driver + 2, "H", SIZE + 1)
    bench.start(number)
    if number == RECEIVE:
        bench.end.send(frame(bytes(100)))
    assert select.select([bench.error], (), (), HANG)[0]
    assert bench.vhost.stop(number) == 0


def test_a_buffer_that_is_no_memory_is_told_of(bench: Bench) -> None:
    bench.drivers[TRANSMIT].add([Element(BYTES, 100, writable=False)])
    bench.start(TRANSMIT)
    assert select.select([bench.error], (), (), HANG)[0]
