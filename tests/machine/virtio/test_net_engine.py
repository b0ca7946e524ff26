# SPDX-License-Identifier: MIT
"""The engine of a card's queues and Python do the same with the same bytes, whatever these are."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import NO_FEATURES, DeviceStatus, Feature
from pyvmm.devices.virtio.net_features import NetFeature
from pyvmm.devices.virtio.net_header import ECN, FrameHeader, Segments
from pyvmm.devices.virtio.rings import QueuePosition
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.hosts.kvm.conversions import FastConversions
from pyvmm.hosts.queue_engine import QueueEngine, SplitQueue, Stopped
from pyvmm.machine.hardware import DescriptorNet, NetCard
from pyvmm.machine.virtio.net import net_device
from pyvmm.machine.virtio.queue_worker import QueueWorker
from pyvmm.net.frames import NO_OFFLOADS

from .guest_pages import PAGE, GuestPages
from .socket_wire import HEADER, SocketWire
from .split_driver import (
    DESCRIPTORS,
    DEVICE,
    DRIVER,
    INDIRECT,
    PRIVATE,
    SIZE,
    TABLES,
    WRITE,
    Descriptor,
    Event,
    bring_up,
    make_available,
)

DATA = 7 * PAGE
PAGES = 26
STRIDE = 2 * PAGE
"""Bytes between the buffers of two chains."""
RX, TX = 0, 1
EVERY = ~NO_OFFLOADS
FRAME = b"\x02card0\x02peer0\x08\x00" + bytes(range(100))


class Chain(NamedTuple):
    """A chain of a driver, good or bad."""

    descriptors: tuple[Descriptor, ...]
    is_indirect: bool = False
    next_too_far: bool = False


@dataclass(frozen=True)
class Case:
    """A queue as its driver leaves it, and frames that have come from the wire."""

    queue: int
    chains: Sequence[Chain]
    frames: Sequence[bytes] = ()
    features: Feature = NO_FEATURES
    device_features: int = 0
    """A `NetFeature`."""
    flags: int = 0
    event: int = 0
    start: int = 0
    memory: Sequence[tuple[int, bytes]] = ()
    """GPAs, and what the driver has written there."""


class Side:
    """A card whose driver has set one queue up, over memory and a wire of its own."""

    def __init__(self, case: Case, wire: SocketWire) -> None:
        self.case, self.wire = case, wire
        self.pages = GuestPages(PAGES * PAGE, holder="net 0")
        self.pages.private.add(PRIVATE)
        wire.descriptors = (wire.queues[0].fileno(),)
        made = net_device(NetCard(DescriptorNet(()), mac=b"\x02card0"), wire, 0)
        self.handler: Any = made.handler
        self.core = VirtioCore(made.model)
        self.interrupts = 0
        self.core.on_interrupt = self._count
        self.features = case.features | Feature.VERSION_1 | case.device_features
        status = bring_up(self.core, self.pages, case.queue, self.features, case.start)
        assert status & DeviceStatus.FEATURES_OK
        leases: Any = self.pages
        self.worker = QueueWorker(
            case.queue, self.core, self.handler, leases, threading.Lock(), name="net 0"
        )
        self.again = False
        self.handler.on_ready = self._look_again

    def _count(self, queue: int | None) -> None:
        self.interrupts += queue is not None

    def _look_again(self, _queue: int) -> None:
        self.again = True

    def put(self) -> None:
        """Have the driver make chains available, each from its own descriptor on."""
        case = self.case
        make_available(
            self.pages,
            case.chains,
            case.start,
            Event(case.flags, case.event),
            event_index=Feature.EVENT_INDEX in self.features,
        )
        for gpa, content in case.memory:
            self.pages.put(gpa, content)
        for frame in case.frames:
            self.wire.peers[0].send(frame)

    def by_python(self, most: int | None = None) -> None:
        """Serve all, or `most` chains."""
        queue = self.case.queue

        async def main() -> None:
            self.handler.pairs[0].has_frame = True
            if most is None:
                while await self.worker.serve_batch() or self.again:
                    self.again = False
                return
            layout = self.core.running(queue)
            assert layout is not None
            self.worker._epoch = self.core.begin(queue)
            try:
                await self.worker._serve_ring(layout, self.core.position(queue), most)
            finally:
                self.core.end(queue)

        trio.run(main)

    def by_engine(self) -> list[Stopped]:
        """Serve all by the engine, and what it leaves by Python. Return why it has stopped."""
        conversions = self.conversions()
        reasons = []
        with Eventfd() as bell, Eventfd() as interrupt:
            while True:
                with self.engine(conversions, bell, interrupt) as engine:
                    reasons.append(engine.run(waits=False))
                    self.core.move(self.case.queue, QueuePosition(*engine.position))
                assert not conversions.held.overlapping(HeldKind.LEASE, 0, PAGES * PAGE)
                if reasons[-1] is not Stopped.ODD_CHAIN:
                    break
                self.by_python(1)
            self.interrupts += interrupt.drain()
        return reasons

    def conversions(self) -> FastConversions:
        made = FastConversions(-1)
        made.held.add_region(0, 0, PAGES * PAGE, writable=True)
        made.held.place(0, memoryview(self.pages.bytes))
        for page in self.pages.private:
            made.held.note(page, PAGE, shared=False)
        return made

    def engine(self, conversions: FastConversions, bell: Eventfd, told: Eventfd) -> QueueEngine:
        position = self.core.position(self.case.queue)
        return conversions.held.net_engine(
            SplitQueue(
                SIZE, DESCRIPTORS, DRIVER, DEVICE,
                indirect=Feature.INDIRECT in self.features,
                event_index=Feature.EVENT_INDEX in self.features,
                available=position.available,
                used=position.used,
                doorbell=bell.fileno(),
                interrupt=told.fileno(),
            ),
            self.handler.plain_work(self.case.queue).frames,
        )  # fmt: skip

    def sent(self) -> list[bytes]:
        """The frames that the other end has."""
        found = []
        peer = self.wire.peers[0]
        peer.setblocking(False)
        while True:
            try:
                found.append(peer.recv(1 << 17))
            except BlockingIOError:
                return found

    def given(self) -> list[tuple[int, bytes]]:
        """The chains that were given back: their heads, and what was written to them.

        Others may have been written to, and are no driver's to look at.
        """
        found = []
        case, heads, taken = self.case, {}, 0
        for chain in case.chains:
            heads[taken] = chain
            taken += 1 if chain.is_indirect else len(chain.descriptors)
        for position in range(case.start, case.start + len(case.chains)):
            if (self.core.position(case.queue).used - position - 1) & 0xFFFF > SIZE:
                break
            at = DEVICE + 4 + 8 * (position % SIZE)
            head, written = struct.unpack_from("<II", self.pages.bytes, at)
            content = b""
            for gpa, length, flags in heads[head].descriptors:
                if flags & WRITE and len(content) < written:
                    content += self.pages.bytes[gpa : gpa + length]
            found.append((head, content[:written]))
        return found

    def left(self) -> list[bytes]:
        """The frames that have come and were not taken."""
        found = []
        while True:
            try:
                found.append(self.wire.queues[0].end.recv(1 << 17))
            except BlockingIOError:
                return found


class Done(NamedTuple):
    """The engine's side, why it stopped, and the frames that it has sent."""

    side: Side
    reasons: list[Stopped]
    sent: list[bytes]

    def content(self, gpa: int, size: int) -> bytes:
        return bytes(self.side.pages.bytes[gpa : gpa + size])

    def written(self, number: int) -> int:
        """Bytes that were written of a chain, by its position."""
        at = DEVICE + 4 + 8 * (number % SIZE)
        return int(struct.unpack_from("<I", self.side.pages.bytes, at + 4)[0])


def both(case: Case) -> Done:
    """Have it done by both; what they have done is the same."""
    with SocketWire(offloads=EVERY) as one, SocketWire(offloads=EVERY) as other:
        python, engine = Side(case, one), Side(case, other)
        for side in (python, engine):
            side.put()
        python.by_python()
        reasons = engine.by_engine()
        assert engine.core.needs_reset == python.core.needs_reset == False  # noqa: E712
        assert engine.core.position(case.queue) == python.core.position(case.queue)
        assert engine.pages.bytes[:TABLES] == python.pages.bytes[:TABLES]
        assert engine.given() == python.given()
        sent = engine.sent()
        assert sent == python.sent()
        assert engine.left() == python.left()
        assert bool(engine.interrupts) == bool(python.interrupts)
        return Done(engine, reasons, sent)


def room(*sizes: int, number: int = 0, indirect: bool = False) -> Chain:
    """A chain for a frame, in buffers of these sizes."""
    gpa = DATA + STRIDE * number
    found = []
    for size in sizes:
        found.append((gpa, size, WRITE))
        gpa += size
    return Chain(tuple(found), indirect)


def data(*sizes: int, number: int = 0, indirect: bool = False) -> Chain:
    """A chain with a frame, in buffers of these sizes."""
    return Chain(
        tuple((gpa, size, 0) for gpa, size, _ in room(*sizes, number=number).descriptors), indirect
    )


FEATURES = [
    NO_FEATURES, Feature.EVENT_INDEX, Feature.INDIRECT, Feature.INDIRECT | Feature.EVENT_INDEX,
]  # fmt: skip
each_kind = pytest.mark.parametrize("features", FEATURES, ids=str)
each_start = pytest.mark.parametrize("start", [0, 0xFFFE])


@each_kind
@each_start
def test_plain_frames_are_sent_without_python(features: Feature, start: int) -> None:
    indirect = Feature.INDIRECT in features
    chains = [
        data(12, 100, number=0, indirect=indirect),
        data(7, 5, 60, number=1, indirect=indirect),
        data(500, number=2, indirect=indirect),
    ]
    done = both(Case(TX, chains, features=features, start=start, event=start))
    assert done.reasons == [Stopped.IDLE]
    assert done.side.interrupts
    assert [len(frame) for frame in done.sent] == [112, 72, 500]
    assert done.side.core.position(TX).used == (start + 3) & 0xFFFF


@each_kind
@each_start
def test_plain_frames_are_received_without_python(features: Feature, start: int) -> None:
    indirect = Feature.INDIRECT in features
    chains = [
        room(12, 1500, number=0, indirect=indirect),
        room(7, 20, 1000, number=1, indirect=indirect),
        room(126, number=2, indirect=indirect),
    ]
    frames = [HEADER + FRAME, bytes(10) + b"\xee\xee" + FRAME[::-1], HEADER + FRAME]
    done = both(Case(RX, chains, frames, features=features, start=start, event=start))
    assert done.reasons == [Stopped.IDLE]
    assert done.side.interrupts
    assert done.content(DATA, 126) == HEADER + FRAME
    assert done.content(DATA + STRIDE, 126) == HEADER + FRAME[::-1]
    assert done.written(start) == done.written(start + 1) == 126
    assert done.side.core.position(RX).used == (start + 3) & 0xFFFF


def test_a_driver_that_wants_no_interrupt_gets_none() -> None:
    one = [data(12, 100)]
    assert not both(Case(TX, one, flags=1)).side.interrupts
    assert not both(Case(TX, one, features=Feature.EVENT_INDEX, event=1)).side.interrupts
    assert both(Case(TX, one, features=Feature.EVENT_INDEX, event=0)).side.interrupts


def test_what_no_chain_has_room_for_and_what_is_no_frame_is_dropped() -> None:
    frames = [HEADER + FRAME * 3, HEADER + FRAME[:13], b"\1", HEADER + FRAME]
    done = both(Case(RX, [room(12, 200)], frames))
    assert done.reasons == [Stopped.IDLE]
    assert done.written(0) == 126


@pytest.mark.parametrize("size", [12, 25, 12 + 65_554])
def test_what_is_no_frame_is_not_sent(size: int) -> None:
    sizes = [size] if size < PAGE else [PAGE] * 16 + [size - 16 * PAGE]
    gpas = [DATA + min(number, 8) * PAGE for number in range(17)]
    chain = Chain(tuple((gpa, one, 0) for gpa, one in zip(gpas, sizes, strict=False)), True)
    done = both(Case(TX, [chain, data(12, 100, number=1)], features=Feature.INDIRECT))
    assert done.reasons == [Stopped.IDLE]
    assert [len(frame) for frame in done.sent] == [112]


def test_frames_without_a_chain_stay_in_the_wire() -> None:
    done = both(Case(RX, [room(200)], [HEADER + FRAME] * 3))
    assert done.side.core.position(RX).used == 1
    assert both(Case(RX, [], [HEADER + FRAME] * 3)).reasons == [Stopped.IDLE]


ODD = [
    (TX, data(11)),
    (TX, room(12, 100)),
    (TX, Chain(((DATA, 100, 0), (DATA + 200, 100, WRITE)))),
    (TX, Chain(((PRIVATE, 100, 0),))),
    (TX, Chain(((DATA, 100, 0), (PRIVATE - 8, 100, 0)))),
    (TX, Chain(((DATA, 100, 0), (DATA + 200, 0, 0)))),
    (TX, Chain(((DATA, 100, 0), ((1 << 64) - 4, 100, 0)))),
    (TX, Chain(((DATA, 0xFFFF_FFFF, 0),))),
    (TX, data(12, 100)._replace(next_too_far=True)),
    (TX, data(12, 100)._replace(is_indirect=True)),
    (RX, data(12, 100)),
    (RX, room(11)),
    (RX, Chain(((DATA, 100, 0), (DATA + 200, 100, WRITE)))),
    (RX, Chain(((PRIVATE, 200, WRITE),))),
    (RX, Chain(((DATA, 100, WRITE), (DATA + 50, 100, WRITE)))),
    (RX, room(12, 100)._replace(next_too_far=True)),
]  # fmt: skip


@pytest.mark.parametrize(("queue", "chain"), ODD)
def test_what_is_not_plain_is_left_to_python_and_the_engine_goes_on(
    queue: int, chain: Chain
) -> None:
    good = data(12, 100, number=1) if queue == TX else room(200, number=1)
    done = both(Case(queue, [chain, good], [HEADER + FRAME] if queue == RX else ()))
    assert done.reasons == [Stopped.ODD_CHAIN, Stopped.IDLE]
    assert done.side.core.position(queue).used == 2
    if queue == RX:
        assert done.written(1) == 126
    else:
        assert [len(frame) for frame in done.sent] == [112]


_LENGTH = st.sampled_from([0, 1, 8, 11, 12, 13, 25, 26, 60, 114, 500, PAGE, 0xFFFF_FFFF])


def _any(number: int) -> st.SearchStrategy[Chain]:
    """A chain that shares no memory with one of another number."""
    places = [DATA, DATA + 8, DATA + 100, DATA + 2048]
    gpa = st.sampled_from([one + STRIDE * number for one in places]) | st.sampled_from(
        [PRIVATE, PRIVATE - 64 * (1 + number), 1 << 40, (1 << 64) - 4]
    )
    kind = st.sampled_from([0, WRITE, WRITE, INDIRECT])
    descriptors = st.lists(st.tuples(gpa, _LENGTH, kind), min_size=1, max_size=4)
    return st.builds(Chain, descriptors.map(tuple), st.booleans(), st.booleans())


_SIZES = st.lists(st.sampled_from([5, 7, 12, 60, 114, 500]), min_size=1, max_size=3)


def _plain(number: int) -> st.SearchStrategy[Chain]:
    return st.builds(
        lambda sizes, receives, indirect: (room if receives else data)(
            *sizes, number=number, indirect=indirect
        ),
        _SIZES, st.booleans(), st.booleans(),
    )  # fmt: skip


@given(
    st.builds(
        Case,
        st.sampled_from([RX, TX]),
        st.tuples(*(_plain(number) | _any(number) for number in range(2))),
        st.lists(
            st.sampled_from(
                [b"\1", HEADER, HEADER + FRAME[:13], HEADER + FRAME, HEADER + FRAME * 9]
            ),
            max_size=3,
        ),
        st.sampled_from(FEATURES),
        flags=st.sampled_from([0, 1]),
        event=st.integers(0, 3),
        start=st.sampled_from([0, 5, 0xFFFF]),
    )
)
def test_both_do_the_same(case: Case) -> None:
    both(case)


LARGE = FRAME[:14] + bytes(range(256)) * 16
MERGES = NetFeature.MRG_RXBUF
CUTS = NetFeature.CSUM | NetFeature.HOST_TSO4 | NetFeature.HOST_USO
TAKES_CUT = NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4 | NetFeature.GUEST_ECN
CUT = FrameHeader(1, Segments.TCP4, 54, 1448, 34, 16)


@each_kind
@each_start
@pytest.mark.parametrize(
    "sizes", [[1500] * 3, [20, 5000], [4121, 1], [12, 4000, 110], [4096, 14, 100], [4122, 30]],
    ids=str,
)  # fmt: skip
def test_a_frame_fills_as_many_chains_as_it_takes(
    features: Feature, start: int, sizes: list[int]
) -> None:
    indirect = Feature.INDIRECT in features
    chains = [
        room(*((size,) if size < 13 else (size - 7, 7)), number=number, indirect=indirect)
        for number, size in enumerate(sizes)
    ]
    case = Case(
        RX, chains, [HEADER + LARGE], features=features, device_features=MERGES, start=start
    )
    done = both(case)
    needed = next(count for count in range(1, 4) if sum(sizes[:count]) >= 12 + len(LARGE))
    assert done.reasons == [Stopped.IDLE]
    assert done.side.core.position(RX).used == (start + needed) & 0xFFFF
    given = [content for _, content in done.side.given()]
    header = FrameHeader(buffers=needed).encoded()
    assert b"".join(given) == header + LARGE
    assert [len(content) for content in given[:-1]] == sizes[: needed - 1]


def test_a_frame_waits_for_chains_that_are_enough() -> None:
    case = Case(RX, [room(2000, number=number) for number in range(2)], device_features=MERGES)
    with running(case) as (side, engine, _, told, _):
        side.put()
        for frame in (LARGE, FRAME):
            side.wire.peers[0].send(HEADER + frame)
        assert engine.run(waits=False) is Stopped.IDLE
        assert engine.position == (0, 0)
        assert not told.drain()
        # Two more of them, in the descriptors behind.
        for number in (2, 3):
            gpa = DATA + STRIDE * number
            side.pages.put(DESCRIPTORS + 16 * number, struct.pack("<QIHH", gpa, 2000, WRITE, 0))
            side.pages.put(DRIVER + 4 + 2 * number, struct.pack("<H", number))
        side.pages.put(DRIVER + 2, struct.pack("<H", 4))
        assert engine.run(waits=False) is Stopped.IDLE
        assert engine.position == (4, 4)
        assert told.drain()
        content = side.pages.bytes[DATA : DATA + 2000]
        assert content[:12] == FrameHeader(buffers=3).encoded()
        assert content[12:] == LARGE[:1988]
        assert side.pages.bytes[DATA + 3 * STRIDE :][:126] == HEADER + FRAME


def test_a_frame_that_all_of_a_ring_is_not_enough_for_is_dropped() -> None:
    chains = [room(200, number=number) for number in range(SIZE)]
    frames = [HEADER + LARGE, HEADER + FRAME]
    done = both(Case(RX, chains, frames, device_features=MERGES))
    assert done.side.core.position(RX).used == 1
    assert done.content(DATA, 126) == HEADER + FRAME


@pytest.mark.parametrize("features", [Feature(0), Feature.EVENT_INDEX], ids=str)
def test_the_driver_is_asked_to_tell_of_chains_behind_those_that_are_too_few(
    features: Feature,
) -> None:
    chains = [room(2000, number=number) for number in range(2)]
    done = both(Case(RX, chains, [HEADER + LARGE], features, MERGES))
    flags, event = (
        struct.unpack_from("<H", done.side.pages.bytes, at)[0] for at in (DEVICE, DEVICE + 68)
    )
    assert (flags, event) == (0, 2 if features else 0)


def test_headers_go_with_their_frames() -> None:
    large = FRAME[:12] + b"\x08\x00" + bytes(4000)
    sent = both(
        Case(
            TX, [data(12, len(large))], device_features=CUTS,
            memory=[(DATA, CUT._replace(buffers=77).encoded() + large)],
        )
    )  # fmt: skip
    assert sent.reasons == [Stopped.IDLE]
    assert sent.sent == [CUT.encoded() + large]
    came = both(
        Case(
            RX, [room(5000)], [CUT._replace(buffers=0).encoded() + large], device_features=TAKES_CUT
        )
    )
    assert came.content(DATA, 12 + len(large)) == CUT.encoded() + large


_TAG = b"\x81\x00\0\5"
USO = NetFeature.CSUM | NetFeature.HOST_USO


@pytest.mark.parametrize(
    ("header", "kind", "features", "is_sent"),
    [
        (CUT, b"\x08\x00", CUTS, True),
        (CUT, _TAG + b"\x08\x00", CUTS, True),
        (CUT, _TAG * 2 + b"\x08\x00", CUTS, True),
        (CUT, _TAG * 3 + b"\x08\x00", CUTS, False),
        (CUT, b"\x86\xdd", CUTS, False),
        (CUT._replace(start=13), b"\x08\x00", CUTS, False),
        (FrameHeader(1, start=13, offset=16), b"\x08\x00", CUTS, False),
        (FrameHeader(1, start=14, offset=16), b"\x08\x00", CUTS, True),
        (FrameHeader(1, start=14, offset=16), b"\x08\x00", NetFeature(0), False),
        (CUT._replace(header_length=0xFFFF), b"\x08\x00", CUTS, True),
        (CUT._replace(segment=0), b"\x08\x00", CUTS, False),
        (CUT._replace(kind=Segments.UDP, offset=6), b"\x86\xdd", USO, True),
        (CUT._replace(kind=Segments.UDP, offset=6), b"\x86\xdd", NetFeature.CSUM, False),
        (CUT._replace(kind=Segments.TCP4 | ECN), b"\x08\x00", CUTS, False),
        (CUT._replace(kind=Segments.TCP4 | ECN), b"\x08\x00", CUTS | NetFeature.HOST_ECN, True),
        (CUT._replace(kind=Segments.UDP | ECN, offset=6), b"\x08\x00", USO, False),
    ],
)
def test_a_header_that_claims_what_cannot_be_goes_nowhere(
    header: FrameHeader, kind: bytes, features: NetFeature, is_sent: bool
) -> None:
    frame = FRAME[:12] + kind + bytes(100)
    case = Case(
        TX, [data(12, len(frame))], device_features=features,
        memory=[(DATA, header.encoded() + frame)],
    )  # fmt: skip
    done = both(case)
    shown = header._replace(header_length=min(header.header_length, len(frame)))
    assert done.sent == ([shown.encoded() + frame] if is_sent else [])
    assert done.reasons == [Stopped.IDLE]


@pytest.mark.parametrize(
    ("kind", "features", "is_taken"),
    [
        (Segments.UDP, NetFeature.GUEST_USO4, False),
        (Segments.UDP, NetFeature.GUEST_USO4 | NetFeature.GUEST_USO6, True),
        (Segments.TCP4, NetFeature.GUEST_TSO6, False),
        (Segments.TCP6, NetFeature.GUEST_TSO6, True),
        (Segments.TCP6 | ECN, NetFeature.GUEST_TSO6, False),
        (Segments.TCP6 | ECN, NetFeature.GUEST_TSO6 | NetFeature.GUEST_ECN, True),
    ],
)
def test_what_the_driver_does_not_do_is_not_given_to_it(
    kind: int, features: NetFeature, is_taken: bool
) -> None:
    frames = [CUT._replace(kind=kind).encoded() + FRAME]
    done = both(Case(RX, [room(200)], frames, device_features=NetFeature.GUEST_CSUM | features))
    assert done.side.core.position(RX).used == is_taken


def test_a_frame_does_not_wait_for_ever_for_chains() -> None:
    case = Case(RX, [room(500, number=number) for number in range(2)], device_features=MERGES)
    with running(case) as (side, engine, _, told, _):
        side.put()
        for frame in (LARGE, FRAME):
            side.wire.peers[0].send(HEADER + frame)
        thread = threading.Thread(target=engine.run)
        thread.start()
        os.set_blocking(told.fileno(), True)
        os.read(told.fileno(), 8)
        assert side.pages.bytes[DATA : DATA + 126] == HEADER + FRAME
        engine.kick()
        thread.join()


_NUMBER = st.sampled_from([0, 1, 6, 14, 16, 20, 34, 54, 92, 100, 113, 1448, 0xFFFF])
_HEADERS = st.builds(
    FrameHeader,
    st.sampled_from([0, 1, 1, 1, 2, 3, 0xFF]),
    st.sampled_from([0, 1, 1, 4, 5, 5, 3, 0x80, 0x81, 0x84, 0x85]),
    _NUMBER,
    _NUMBER,
    st.sampled_from([34, 34, 54, 100, 0, 13, 0xFFFF]),
    st.sampled_from([16, 16, 6, 6, 0, 0xFFFF]),
    st.sampled_from([0, 1, 0xFFFF]),
)
_TYPES = st.sampled_from(
    [b"\x08\x00", b"\x86\xdd", b"\x81\x00\0\5\x08\x00", b"\x81\x00\0\5\x81\x00\0\6\x86\xdd",
     b"\x88\xa8\0\5", b"\x81\x00\0\5\x81\x00\0\5\x81\x00\0\5\x08\x00"]
)  # fmt: skip
_SENDING = [
    NetFeature(0), NetFeature.CSUM, CUTS, CUTS | NetFeature.HOST_ECN | NetFeature.HOST_TSO6,
]  # fmt: skip
_RECEIVING = [
    NetFeature(0), NetFeature.GUEST_CSUM, TAKES_CUT,
    TAKES_CUT | NetFeature.GUEST_TSO6 | NetFeature.GUEST_USO4,
    TAKES_CUT | NetFeature.GUEST_USO6 | NetFeature.GUEST_USO4,
]  # fmt: skip


@given(
    _HEADERS, _TYPES, st.sampled_from([0, 12, 14, 26, 80, 1000]),
    st.sampled_from(_SENDING), st.lists(st.sampled_from([1, 12, 30]), max_size=3),
)  # fmt: skip
def test_both_say_the_same_of_headers_of_the_driver_s(
    header: FrameHeader, kind: bytes, length: int, features: NetFeature, sizes: list[int]
) -> None:
    frame = FRAME[:12] + kind + bytes(length)
    sizes = (
        [*sizes, 12 + len(frame) - sum(sizes)]
        if sum(sizes) < 12 + len(frame)
        else [12 + len(frame)]
    )
    done = both(
        Case(
            TX, [data(*sizes)], device_features=features,
            memory=[(DATA, header.encoded() + frame)],
        )
    )  # fmt: skip
    assert done.reasons == [Stopped.IDLE]
    assert done.side.core.position(TX).used == 1


@given(
    st.lists(_HEADERS, min_size=1, max_size=3), st.sampled_from(_RECEIVING),
    st.booleans(), st.sampled_from([100, 700]),
    st.lists(st.sampled_from([12, 60, 500, 1000]), min_size=1, max_size=SIZE),
)  # fmt: skip
def test_both_say_the_same_of_headers_of_the_wire_s(
    headers: list[FrameHeader], features: NetFeature, merges: bool, length: int, sizes: list[int]
) -> None:
    frames = [one.encoded() + FRAME[:14] + bytes(length) for one in headers]
    chains = [room(size, number=number) for number, size in enumerate(sizes)]
    done = both(Case(RX, chains, frames, device_features=features | (MERGES if merges else 0)))
    assert done.reasons[-1] is Stopped.IDLE


@contextmanager
def running(case: Case) -> Iterator[tuple[Side, QueueEngine, Eventfd, Eventfd, FastConversions]]:
    """An engine of a queue that is set up, its doorbell and what it interrupts by."""
    with SocketWire() as wire, Eventfd() as bell, Eventfd() as told:
        side = Side(case, wire)
        conversions = side.conversions()
        with side.engine(conversions, bell, told) as engine:
            yield side, engine, bell, told, conversions


@pytest.mark.parametrize("queue", [RX, TX])
def test_memory_that_is_about_to_be_converted_is_not_touched(queue: int) -> None:
    chain, frames = (room(200), [HEADER + FRAME]) if queue == RX else (data(100), [])
    with running(Case(queue, [chain], frames)) as (side, engine, _, _, conversions):
        side.put()
        number = conversions.held.hold([(DATA, PAGE)], HeldKind.WAITING)
        assert engine.run(waits=False) is Stopped.VACATING
        assert engine.position == (0, 0)
        assert side.pages.bytes[DATA:] == bytes((PAGES * PAGE) - DATA)
        conversions.held.release(HeldKind.WAITING, number)
        assert engine.run(waits=False) is Stopped.IDLE
        assert engine.position == (1, 1)
        assert engine.counts == (1, len(HEADER + FRAME) if queue == RX else 100)


@pytest.mark.parametrize("queue", [RX, TX])
def test_it_waits_for_the_doorbell_and_for_the_wire_and_ends_when_kicked(queue: int) -> None:
    with running(Case(queue, [room(200) if queue == RX else data(100)])) as parts:
        side, engine, bell, told, _ = parts
        reasons: list[Stopped] = []
        thread = threading.Thread(target=lambda: reasons.append(engine.run()))
        thread.start()
        side.put()
        bell.signal()
        if queue == RX:
            # Then it waits for a frame.
            side.wire.peers[0].send(HEADER + FRAME)
        os.set_blocking(told.fileno(), True)
        os.read(told.fileno(), 8)
        if queue == RX:
            assert side.pages.bytes[DATA : DATA + 126] == HEADER + FRAME
        else:
            assert side.wire.peers[0].recv(1000) == HEADER + bytes(88)
        engine.kick()
        thread.join()
        assert reasons == [Stopped.KICKED]


def test_frames_that_the_wire_has_no_room_for_wait_and_none_is_lost() -> None:
    chains = [data(12, 4000, number=number) for number in range(3)]
    with running(Case(TX, chains)) as (side, engine, _, told, _):
        line = side.wire.queues[0].end
        filled = 0
        while True:
            try:
                line.send(bytes(1000))
            except BlockingIOError:
                break
            filled += 1
        side.put()
        assert engine.run(waits=False) is Stopped.IDLE
        assert engine.position == (0, 0)
        thread = threading.Thread(target=engine.run)
        thread.start()
        sizes = [len(side.wire.peers[0].recv(1 << 17)) for _ in range(filled + 3)]
        assert sizes == [1000] * filled + [4012] * 3
        engine.kick()
        thread.join()
        assert engine.position == (3, 3)
        assert told.drain()


def test_a_wire_that_has_gone_is_python_s_to_see() -> None:
    for queue in (RX, TX):
        chains = [room(200) if queue == RX else data(100)]
        with running(Case(queue, chains)) as (side, engine, _, _, _):
            side.put()
            side.wire.peers[0].close()
            assert engine.run(waits=False) is Stopped.ODD_CHAIN
            assert engine.position == (0, 0)
