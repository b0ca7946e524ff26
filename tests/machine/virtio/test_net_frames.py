# SPDX-License-Identifier: MIT
"""Frames of a network card that are large, lie, flood, or come where there is no room."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from pyvmm.devices.virtio.net_control import OK
from pyvmm.devices.virtio.net_features import NetFeature
from pyvmm.devices.virtio.net_filter import Accepts
from pyvmm.devices.virtio.net_header import PLAIN, FrameHeader, Segments
from pyvmm.net.frames import NO_OFFLOADS, Offload
from tests.devices.virtio.driver import Element, Used
from tests.machine.in_trio import in_trio

from .card_driver import FRAME, MAC, PEER, RX, SIZE, TX, Card
from .guest_pages import PAGE, Held
from .socket_wire import HEADER, SocketWire

CONTROL = 2
EVERY = ~NO_OFFLOADS
each_ring = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
LARGE = FRAME[:14] + bytes(range(256)) * 16
CUT = FrameHeader(1, Segments.TCP4, 54, 1448, 34, 16)


async def collected(card: Card, queue: int, count: int) -> list[Used]:
    found: list[Used] = []
    while len(found) < count:
        found += await card.used(queue)
    return found


async def settled(card: Card, queue: int) -> list[Used]:
    """What has come back when nobody has anything left to do."""
    await wait_all_tasks_blocked()
    return card.drivers[queue].collect()


@each_ring
@in_trio
async def test_a_frame_fills_as_many_chains_as_it_takes(packed: bool) -> None:
    with SocketWire() as wire:
        card = Card(wire, NetFeature.MRG_RXBUF, packed=packed)
        async with card.serving():
            card.start()
            for sizes in ([1500] * 3, [20, 5000], [4121, 1], [12, 4000, 110], [4096, 14, 100]):
                rooms = [card.room(size) for size in sizes]
                for room in rooms:
                    card.drivers[RX].add(room)
                card.bells[RX].signal()
                wire.peers[0].send(HEADER + LARGE)
                needed = next(n for n in range(1, 4) if sum(sizes[:n]) >= 12 + len(LARGE))
                back = await collected(card, RX, needed)
                written = [used.written for used in back]
                assert written[:-1] == sizes[: needed - 1]
                assert sum(written) == 12 + len(LARGE)
                content = b"".join(map(card.content, rooms[:needed]))[: sum(written)]
                assert content == PLAIN[:10] + bytes([needed, 0]) + LARGE
                for _ in sizes[needed:]:
                    wire.peers[0].send(HEADER + FRAME)
                    await card.used(RX)


@each_ring
@in_trio
async def test_a_frame_waits_for_enough_chains(packed: bool) -> None:
    with SocketWire() as wire:
        card = Card(wire, NetFeature.MRG_RXBUF, packed=packed)
        async with card.serving():
            card.start()
            wire.peers[0].send(HEADER + LARGE)
            wire.peers[0].send(HEADER + FRAME)
            for _ in range(2):
                card.add(RX, card.room(1500))
                assert await settled(card, RX) == []
            card.add(RX, card.room(1500))
            back = await collected(card, RX, 3)
            assert [used.written for used in back] == [1500, 1500, 12 + len(LARGE) - 3000]
            assert card.interrupts == [RX], "once for all"
            card.add(RX, card.room(1500))
            assert (await card.used(RX))[0].written == 12 + len(FRAME)


@each_ring
@pytest.mark.parametrize("pieces", [1, 3])
@in_trio
async def test_a_frame_that_the_whole_ring_has_no_room_for_is_lost(
    packed: bool, pieces: int
) -> None:
    with SocketWire() as wire:
        card = Card(wire, NetFeature.MRG_RXBUF, packed=packed)
        async with card.serving():
            card.start()
            wire.peers[0].send(HEADER + LARGE)
            wire.peers[0].send(HEADER + FRAME)
            for _ in range(SIZE // pieces):
                card.add(RX, card.room(*[60 // pieces] * pieces))
            [(_, first), (_, second)] = await collected(card, RX, 2)
            assert (first, second) == (60, 12 + len(FRAME) - 60), "the next one fits"
            assert card.handler.pairs[0].dropped_incoming == 1
            assert await settled(card, RX) == []


@in_trio
async def test_a_frame_has_no_more_chains_than_a_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    with SocketWire() as wire:
        card = Card(wire, NetFeature.MRG_RXBUF)
        lease, most = card.pages.lease, 0

        def lease_and_add(
            ranges: Sequence[tuple[int, int]], *, writable: bool, holder: str
        ) -> Held:
            nonlocal most
            if ranges[0][1] == 12:
                # The driver has one more, whenever the device looks.
                at = card.drivers[RX].place.driver + 2
                (index,) = struct.unpack_from("<H", card.pages.bytes, at)
                card.pages.put(at, struct.pack("<H", index + 1))
                most = max(most, card.pages.leased)
            return lease(ranges, writable=writable, holder=holder)

        async with card.serving():
            card.start()
            for _ in range(SIZE):
                card.add(RX, card.room(12))
            monkeypatch.setattr(card.pages, "lease", lease_and_add)
            wire.peers[0].send(HEADER + LARGE)
            await wait_all_tasks_blocked()
            pair = card.handler.pairs[0]
            while not pair.received + pair.dropped_incoming:
                await trio.lowlevel.checkpoint()
            assert most == SIZE
            assert (pair.received, pair.dropped_incoming) == (0, 1)


@in_trio
async def test_what_does_not_fit_is_lost_where_chains_are_not_merged() -> None:
    with SocketWire() as wire:
        card = Card(wire)
        async with card.serving():
            card.start()
            for frame in (LARGE, FRAME):
                wire.peers[0].send(HEADER + frame)
            room = card.room(1526)
            card.add(RX, room)
            card.add(RX, card.room(9000))
            [(_, written)] = await card.used(RX)
            assert card.content(room)[12:written] == FRAME
            assert card.handler.pairs[0].dropped_incoming == 1


@in_trio
async def test_private_chains_and_such_that_are_to_be_read_are_given_back() -> None:
    with SocketWire() as wire:
        card = Card(wire, NetFeature.MRG_RXBUF)
        private = 0x18_0000
        card.pages.private.add(private)
        async with card.serving():
            card.start()
            wire.peers[0].send(HEADER + LARGE)
            card.add(RX, card.room(1500))
            card.add(RX, [Element(private + PAGE - 1, 2, writable=True)])
            assert [used.written for used in await collected(card, RX, 2)] == [0, 0]
            card.add(RX, card.room(1500))
            card.add(RX, card.data(bytes(9000)))
            assert [used.written for used in await collected(card, RX, 2)] == [0, 0]
            card.add(RX, card.room(11))
            assert [used.written for used in await collected(card, RX, 1)] == [0]
            card.add(RX, card.room(9000))
            assert [used.written for used in await card.used(RX)] == [12 + len(LARGE)], "not lost"


@pytest.mark.parametrize(
    ("header", "frame"),
    [
        (HEADER, FRAME[:13]),
        (HEADER, b""),
        (HEADER, bytes(1519)),
        (FrameHeader(1, start=14, offset=45).encoded(), FRAME),
        (CUT._replace(segment=0).encoded(), LARGE),
        (CUT._replace(kind=Segments.TCP6).encoded(), LARGE),
        (CUT.encoded(), bytes(65_551)),
        (CUT._replace(flags=0).encoded(), LARGE),
        (HEADER[:11], b""),
    ],
    ids=["runt", "empty", "giant", "checksum", "segment", "kind", "huge", "partial", "header"],
)
@in_trio
async def test_frames_that_no_wire_gets(header: bytes, frame: bytes) -> None:
    with SocketWire(offloads=EVERY, mtu=1500) as wire:
        card = Card(wire, int(NetFeature.CSUM | NetFeature.HOST_TSO4))
        async with card.serving():
            card.start()
            token = card.add(TX, card.data(*[part for part in (header, frame) if part]))
            assert await card.used(TX) == [(token, 0)]
            card.send(FRAME)
            await card.used(TX)
            assert wire.peers[0].recv(1 << 17) == HEADER + FRAME, "it is the first"


@in_trio
async def test_a_header_reaches_the_wire_as_far_as_it_is_true() -> None:
    with SocketWire(offloads=EVERY) as wire:
        card = Card(wire, int(NetFeature.CSUM | NetFeature.HOST_TSO4))
        async with card.serving():
            card.start()
            lie = CUT._replace(flags=7, buffers=99, header_length=0xFFFF).encoded()
            card.add(TX, card.data(lie[:5], lie[5:] + LARGE[:3], LARGE[3:]))
            await card.used(TX)
            said = wire.peers[0].recv(1 << 17)
            assert said == CUT._replace(header_length=len(LARGE)).encoded() + LARGE


@in_trio
async def test_a_chain_to_be_written_is_no_frame() -> None:
    with SocketWire() as wire:
        card = Card(wire)
        async with card.serving():
            card.start()
            for elements in (card.room(2000), card.data(HEADER, FRAME) + card.room(10)):
                token = card.add(TX, elements)
                assert await card.used(TX) == [(token, 0)]
            wire.peers[0].setblocking(False)
            with pytest.raises(BlockingIOError):
                wire.peers[0].recv(1)


async def command(card: Card, request: bytes) -> bytes:
    room = card.room(1)
    token = card.add(CONTROL, card.data(request[:1], request[1:]) + room)
    assert await card.used(CONTROL) == [(token, 1)]
    return card.content(room)


@in_trio
async def test_frames_for_others_are_dropped_when_the_driver_says_so() -> None:
    with SocketWire() as wire:
        card = Card(wire, int(NetFeature.CTRL_VQ | NetFeature.CTRL_RX), queues=(RX, TX, CONTROL))
        async with card.serving():
            card.start()
            assert await command(card, b"\0\0\0") == OK
            wire.peers[0].send(HEADER + PEER + MAC + bytes(50))
            wire.peers[0].send(HEADER + FRAME)
            room = card.room(1526)
            card.add(RX, room)
            await card.used(RX)
            assert card.content(room)[12 : 12 + len(FRAME)] == FRAME


@in_trio
async def test_commands_that_are_none_are_given_back() -> None:
    with SocketWire() as wire:
        card = Card(wire, int(NetFeature.CTRL_VQ), queues=(RX, TX, CONTROL))
        async with card.serving():
            card.start()
            for elements in (card.data(b"\0\0\0"), card.data(bytes(1 << 17)) + card.room(1)):
                token = card.add(CONTROL, elements)
                assert await card.used(CONTROL) == [(token, 0)]
            assert await command(card, bytes(1 << 16)) != OK


@in_trio
async def test_the_wire_is_told_what_the_driver_can_do() -> None:
    offloads = int(NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4 | NetFeature.CTRL_GUEST_OFFLOADS)
    with SocketWire(offloads=EVERY) as wire:
        card = Card(wire, offloads | NetFeature.CTRL_VQ, queues=(RX, TX, CONTROL))
        async with card.serving():
            card.start()
            await wait_all_tasks_blocked()
            assert wire.wanted == [Offload.CHECKSUM | Offload.TSO4]
            wire.peers[0].send(CUT.encoded() + LARGE)
            room = card.room(9000)
            card.add(RX, room)
            await card.used(RX)
            assert card.content(room)[: 12 + len(LARGE)] == CUT.encoded() + LARGE
            assert await command(card, b"\5\0" + struct.pack("<Q", NetFeature.GUEST_CSUM)) == OK
            assert wire.wanted[1:] == [Offload.CHECKSUM]
            # One that has come before that is not for this driver any more.
            wire.peers[0].send(CUT.encoded() + LARGE)
            wire.peers[0].send(HEADER + FRAME)
            card.add(RX, card.room(9000))
            assert (await card.used(RX))[0].written == 12 + len(FRAME)
            card.core.write_status(0)
            await wait_all_tasks_blocked()
            assert wire.wanted[2:] == [NO_OFFLOADS]


@in_trio
async def test_frames_come_by_the_pairs_that_the_driver_uses() -> None:
    with SocketWire(3) as wire:
        control = 6
        card = Card(wire, int(NetFeature.CTRL_VQ | NetFeature.MQ), queues=(0, 1, 2, 3, 4, 5, 6))
        assert card.core.read_config(8, 2) == 3
        async with card.serving():
            card.start()
            await wait_all_tasks_blocked()
            assert wire.used == [1]
            for number in range(3):
                card.add(2 * number, card.room(1526))
                wire.peers[number].send(HEADER + FRAME)
            await card.used(0)
            assert await settled(card, 2) == []
            token = card.add(3, card.data(HEADER, FRAME))
            assert await card.used(3) == [(token, 0)]
            assert card.handler.pairs[1].dropped_outgoing == 1
            room = card.room(1)
            card.add(control, card.data(b"\4\0\3\0") + room)
            await card.used(control)
            assert wire.used == [1, 3]
            for number in (1, 2):
                assert len(await card.used(2 * number)) == 1
                card.add(2 * number + 1, card.data(HEADER, FRAME))
                await card.used(2 * number + 1)
                assert wire.peers[number].recv(1 << 17) == HEADER + FRAME


@in_trio
async def test_a_reset_drops_the_frame_that_was_under_way() -> None:
    with SocketWire() as wire:
        card = Card(wire, NetFeature.MRG_RXBUF)
        async with card.serving():
            card.start()
            wire.peers[0].send(HEADER + LARGE)
            card.add(RX, card.room(1500))
            assert await settled(card, RX) == []
            card.start()
            await wait_all_tasks_blocked()
            wire.peers[0].send(HEADER + FRAME)
            card.add(RX, card.room(1500))
            assert (await card.used(RX))[0].written == 12 + len(FRAME)


@in_trio
async def test_a_restored_driver_looks_at_its_link_and_announces_itself() -> None:
    features = int(NetFeature.CTRL_VQ | NetFeature.STATUS | NetFeature.GUEST_ANNOUNCE)
    with SocketWire() as wire:
        card = Card(wire, features, queues=(RX, TX, CONTROL))
        async with card.serving():
            card.start()
            saved = card.core.save()
            with card.guard:
                card.core.restore(saved)
            await wait_all_tasks_blocked()
            assert None in card.interrupts
            assert card.core.read_config(6, 2) == 3
            assert await command(card, b"\3\0") == OK
            assert card.core.read_config(6, 2) == 1


@pytest.mark.parametrize("queue", [RX, TX, CONTROL])
@pytest.mark.parametrize("how", ["index", "head", "private"])
@in_trio
async def test_a_queue_that_cannot_be_stops_the_card_until_it_is_reset(
    queue: int, how: str
) -> None:
    features = int(NetFeature.CTRL_VQ | NetFeature.MRG_RXBUF)
    with SocketWire() as wire:
        card = Card(wire, features, queues=(RX, TX, CONTROL))
        async with card.serving():
            card.start()
            place = card.drivers[queue].place
            wire.peers[0].send(HEADER + FRAME)
            if how == "private":
                card.pages.private.add(place.device)
            card.pages.put(place.driver + 4, b"\xff\xff")
            card.pages.put(place.driver + 2, struct.pack("<H", 1 if how == "head" else SIZE + 1))
            card.bells[queue].signal()
            await wait_all_tasks_blocked()
            assert card.core.needs_reset
            assert card.interrupts == [None]
            card.send(FRAME)
            assert await settled(card, TX) == []
            card.pages.private.clear()
            card.start()
            token = card.send(FRAME)
            assert await card.used(TX) == [(token, 0)]
            card.add(RX, card.room(1526))
            assert (await card.used(RX))[0].written == 12 + len(FRAME)


class Flood:
    """A queue of a wire that always has frames, and always room."""

    def __init__(self, wire: SocketWire) -> None:
        self.end = wire.queues[0].end
        self.moved = 0

    def fileno(self) -> int:
        return self.end.fileno()

    def receive(self, views: Sequence[memoryview]) -> int:
        self.moved += 1
        views[0][:12] = HEADER
        return 12 + 60

    def send(self, views: Sequence[memoryview]) -> None:
        del views
        self.moved += 1


@pytest.mark.parametrize("queue", [RX, TX])
@in_trio
async def test_a_flood_leaves_others_their_turn(queue: int) -> None:
    with SocketWire() as wire:
        flood = Flood(wire)
        wire.queues = [flood]  # type: ignore[list-item]
        card = Card(wire)
        turns = 0
        async with card.serving():
            card.start()
            if queue == RX:
                wire.peers[0].send(b"readable")
            most = 0
            while flood.moved < 3000:
                # A driver that never lets the ring run dry.
                while len(card.drivers[queue].chains) < SIZE:  # type: ignore[union-attr]
                    elements = card.room(100) if queue == RX else card.data(HEADER + FRAME)
                    card._free -= sum(one.length for one in elements)
                    card.add(queue, elements)
                before = flood.moved
                await trio.lowlevel.checkpoint()
                most = max(most, flood.moved - before)
                turns += 1
                card.drivers[queue].collect()
            assert most <= 2 * 64, "a batch, or two"
            assert turns > 20


@in_trio
async def test_frames_in_many_chains_leave_others_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with SocketWire() as wire:
        flood = Flood(wire)
        wire.queues = [flood]  # type: ignore[list-item]
        card = Card(wire, NetFeature.MRG_RXBUF)
        chains = 0
        lease = card.pages.lease

        def lease_and_add(
            ranges: Sequence[tuple[int, int]], *, writable: bool, holder: str
        ) -> Held:
            nonlocal chains
            if ranges[0][1] == 12:
                chains += 1
                # The driver has one more, whenever the device looks.
                at = card.drivers[RX].place.driver + 2
                (index,) = struct.unpack_from("<H", card.pages.bytes, at)
                card.pages.put(at, struct.pack("<H", index + 1 & 0xFFFF))
            return lease(ranges, writable=writable, holder=holder)

        async with card.serving():
            card.start()
            for _ in range(SIZE):
                card.add(RX, card.room(12))
            monkeypatch.setattr(card.pages, "lease", lease_and_add)
            wire.peers[0].send(b"readable")
            most = 0
            while flood.moved < 200:
                before = chains
                await trio.lowlevel.checkpoint()
                most = max(most, chains - before)
            # Six for each frame, the last of which may begin with the 64th.
            assert 0 < most <= 2 * (64 + 5), "a batch, or two"


@in_trio
async def test_unwanted_frames_without_end_leave_others_their_turn() -> None:
    with SocketWire() as wire:
        flood = Flood(wire)
        wire.queues = [flood]  # type: ignore[list-item]
        card = Card(wire)
        async with card.serving():
            card.start()
            card.model.filter.set_tables((), ())
            card.model.filter.accepts &= 0
            card.add(RX, card.room(1526))
            wire.peers[0].send(b"readable")
            most = turns = 0
            while turns < 20:
                before = flood.moved
                await trio.lowlevel.checkpoint()
                most = max(most, flood.moved - before)
                # Whoever waits for the memory gets it, and who floods has nothing to say to that.
                turns += flood.moved > 0 and card.pages.leased == 0
                assert flood.moved < 10_000
            assert most < 64
            assert card.drivers[RX].collect() == []
            # The chain is still there for the first one that is wanted.
            card.model.filter.accepts |= Accepts.ALL
            assert (await card.used(RX))[0].written == 12 + 60
