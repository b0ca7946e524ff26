# SPDX-License-Identifier: MIT
"""A card whose queues engines serve, in a queue server: whose the frames are, and when."""

from __future__ import annotations

from collections import Counter

import pytest
import trio

from pyvmm.devices.virtio.net_features import NetFeature
from pyvmm.devices.virtio.net_header import FrameHeader, Segments
from pyvmm.hosts.kvm.conversions import FastConversions
from pyvmm.hosts.kvm.net_engine import KvmNetEngine
from pyvmm.hosts.queue_engine import NetQueue, SplitQueue
from pyvmm.net.frames import NO_OFFLOADS

from . import card_driver
from .card_driver import FRAME, RX, TX, Card
from .guest_pages import GuestPages
from .socket_wire import HEADER, SocketWire

CUT = FrameHeader(1, Segments.TCP4, 54, 1448, 34, 16)
LARGE = FRAME[:14] + bytes(range(256)) * 16


class EnginePages(GuestPages):
    """Memory that engines work on as well. `moved` are the frames that these have, by queue."""

    def __init__(self, size: int, holder: str) -> None:
        super().__init__(size, holder)
        self.has_engines = True
        self.moved: Counter[int] = Counter()
        self.asked: list[NetQueue] = []
        self._conversions = FastConversions(-1)
        self._conversions.held.add_region(0, 0, size, writable=True)
        self._conversions.held.place(0, memoryview(self.bytes))

    def net_engine(self, ring: SplitQueue, frames: NetQueue) -> KvmNetEngine:
        moved, queue = self.moved, RX if frames.receives else TX

        class Counted(KvmNetEngine):
            def close(self) -> None:
                if self._queue:
                    moved[queue] += self.counts.requests
                super().close()

        self.asked.append(frames)
        return Counted(self._conversions.held._raw, ring, frames)

    def interrupt(self) -> None:
        """Nobody waits for a lease."""


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> type[EnginePages]:
    monkeypatch.setattr(card_driver, "GuestPages", EnginePages)
    return EnginePages


def wire_of_a_tap() -> SocketWire:
    """A wire that engines may read and write."""
    wire = SocketWire(offloads=~NO_OFFLOADS)
    wire.descriptors = tuple(line.fileno() for line in wire.queues)
    return wire


async def peer_s(wire: SocketWire) -> bytes:
    peer = wire.peers[0]
    await trio.lowlevel.wait_readable(peer)
    return peer.recv(1 << 17)


async def both_ways(card: Card, rounds: int, header: bytes = HEADER, frame: bytes = FRAME) -> None:
    for _ in range(rounds):
        room = card.room(5000)
        token = card.add(RX, room)
        card.wire.peers[0].send(header + frame)
        assert await card.used(RX) == [(token, 12 + len(frame))]
        assert card.content(room)[: 12 + len(frame)] == header + frame
        token = card.send(frame, header)
        assert await card.used(TX) == [(token, 0)]
        assert await peer_s(card.wire) == header + frame


def test_frames_are_the_engines_while_there_is_a_link(pages: type[EnginePages]) -> None:
    features = (
        NetFeature.CSUM | NetFeature.HOST_TSO4 | NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4
    )

    async def main() -> Counter[int]:
        with wire_of_a_tap() as wire:
            card = Card(wire, features)
            assert isinstance(card.pages, pages)
            async with card.serving():
                card.start()
                await both_ways(card, 5)
                await both_ways(card, 5, CUT.encoded(), LARGE)
                card.handler.set_link(up=False)
                token = card.send(FRAME)
                assert await card.used(TX) == [(token, 0)], "Python takes it, and drops it"
                card.handler.set_link(up=True)
                await both_ways(card, 5)
                with pytest.raises(BlockingIOError):
                    wire.peers[0].recv(1, 0x40)  # MSG_DONTWAIT
            assert {one.offloads for one in card.pages.asked} == {0x03}
            return card.pages.moved

    moved = trio.run(main)
    assert moved == {RX: 15, TX: 15}


def test_a_wire_that_ends_takes_the_link_down(pages: type[EnginePages]) -> None:
    del pages

    async def main() -> None:
        with wire_of_a_tap() as wire:
            card = Card(wire)
            async with card.serving():
                card.start()
                await both_ways(card, 1)
                card.add(RX, card.room(1600))
                card.interrupts.clear()
                wire.peers[0].close()
                while card.core.read_config(6, 2) & 1:
                    await trio.sleep(0.001)
                token = card.send(FRAME)
                assert await card.used(TX) == [(token, 0)], "it is taken, and lost"

    trio.run(main)


def test_a_queue_that_is_reset_is_another_engine_s(pages: type[EnginePages]) -> None:
    async def main() -> Counter[int]:
        with wire_of_a_tap() as wire:
            card = Card(wire)
            assert isinstance(card.pages, pages)
            async with card.serving():
                for _ in range(3):
                    card.start()
                    await both_ways(card, 2)
                    with card.guard:
                        card.core.write_status(0)
                    # As drivers wait: the device is not reset before its engines have stopped.
                    while card.core.status:
                        await trio.sleep(0.001)
            return card.pages.moved

    assert trio.run(main) == {RX: 6, TX: 6}
