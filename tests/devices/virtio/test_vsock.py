# SPDX-License-Identifier: MIT
"""A virtio socket device: packets as the guest cuts them, and what both sides keep to."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyvmm.devices.virtio.vsock import (
    HEADER_SIZE,
    MOST_PAYLOAD,
    Operation,
    Packet,
    Shutdown,
    VsockModel,
    parse_packet,
)
from pyvmm.devices.virtio.vsock_streams import (
    FIRST_HOST_PORT,
    LIMIT,
    MOST_CREDIT,
    MOST_REFUSALS,
    MOST_STREAMS,
    State,
    Stream,
    Streams,
)

CID = 52
BOTH = Shutdown.RECEIVES | Shutdown.SENDS


def said(
    operation: int,
    data: bytes = b"",
    *,
    host: int = FIRST_HOST_PORT,
    guest: int = 1234,
    **more: int,
) -> tuple[Packet, bytes]:
    """A packet of the guest's."""
    packet = Packet(CID, 2, guest, host, len(data), 1, operation, allocated=LIMIT)
    return packet._replace(**more), data


def heard(streams: Streams, room: int = 4096) -> list[tuple[int, bytes]]:
    """Packets for the guest: what they do, and their data."""
    found = []
    while streams.has_packet:
        packet, data = parse_packet([memoryview(streams.next_packet(room))])
        assert data is not None
        assert len(data) <= room
        found.append((packet.operation, data))
    assert streams.next_packet(room) == b""
    return found


def connected(allocated: int = LIMIT) -> tuple[Streams, Stream]:
    """A connection that the guest has accepted."""
    streams = Streams(CID)
    stream = streams.connect(1234)
    assert stream is not None
    assert heard(streams) == [(Operation.REQUEST, b"")]
    streams.take(*said(Operation.RESPONSE, allocated=allocated))
    assert stream.state is State.OPEN
    return streams, stream


# -- packets --


@given(st.binary(max_size=200), st.integers(0, 150), st.integers(0, 200))
def test_a_packet_is_its_header_and_as_much_data_as_that_says(
    data: bytes, length: int, cut: int
) -> None:
    header = Packet(CID, 2, 7, 8, length, 1, Operation.DATA, 0, 9, 10)
    whole = memoryview(header.encoded() + data)
    packet, found = parse_packet([whole[:cut], whole[cut:]])
    assert packet == header
    assert found == (data[:length] if length <= len(data) else None)


def test_what_is_no_packet() -> None:
    with pytest.raises(ValueError, match="no header"):
        parse_packet([memoryview(bytes(HEADER_SIZE - 1))])
    large = Packet(CID, 2, 7, 8, MOST_PAYLOAD + 1, 1, Operation.DATA)
    view = memoryview(large.encoded() + bytes(MOST_PAYLOAD + 1))
    assert parse_packet([view]) == (large, None)


# -- the driver is told of a restore --


def test_a_restored_driver_gets_an_event_and_no_packet_until_it_has_fetched_its_id() -> None:
    model = VsockModel(CID)
    changes: list[bool] = []
    model.on_change = lambda: changes.append(model.is_gated)
    assert not model.has_event
    assert not model.is_gated
    model.restore(None)
    assert model.has_event
    model.config()
    assert model.is_gated, "it has not seen the event yet"
    assert model.next_event() == struct.pack("<I", 0)
    assert model.next_event() == b""
    assert model.is_gated
    assert model.config() == struct.pack("<Q", CID)
    assert not model.is_gated
    assert changes == [True, False]


def test_a_reset_needs_no_event() -> None:
    model = VsockModel(CID)
    model.restore(None)
    before = model.resets
    model.reset()
    assert model.resets == before + 1
    assert not model.is_gated
    assert model.next_event() == b""
    assert model.save() is None


# -- connections --


def test_a_connection_of_the_host_s_from_its_request_to_its_reset() -> None:
    streams, stream = connected()
    stream.put(b"question")
    assert heard(streams) == [(Operation.DATA, b"question")]
    streams.take(*said(Operation.DATA, b"answer", forwarded=8))
    assert stream.take() == b"answer"
    streams.take(*said(Operation.SHUTDOWN, flags=BOTH, forwarded=8))
    assert len(streams) == 1, "what it has said is still on its way"
    stream.forward(6)
    assert stream.state is State.CLOSED
    assert heard(streams) == [(Operation.RESET, b"")]
    assert len(streams) == 0


def test_a_connection_of_the_guest_s_is_the_host_s_to_accept() -> None:
    streams = Streams(CID)
    asked: list[Stream] = []
    streams.on_request = asked.append
    streams.take(*said(Operation.REQUEST, host=77))
    assert heard(streams) == []
    asked[0].put(b"early")
    asked[0].accept()
    assert heard(streams) == [(Operation.RESPONSE, b""), (Operation.DATA, b"early")]
    asked[0].end()
    assert heard(streams) == [(Operation.SHUTDOWN, b"")]
    asked[0].abort()
    assert heard(streams) == [(Operation.RESET, b"")]


def test_what_the_guest_has_said_before_a_reset_still_arrives() -> None:
    streams, stream = connected()
    streams.take(*said(Operation.DATA, b"last words"))
    streams.take(*said(Operation.RESET))
    assert stream.state is State.CLOSED
    assert stream.take() == b"last words"
    stream.forward(10)
    assert heard(streams) == [], "a reset is never answered"


def test_the_host_s_end_comes_behind_its_data() -> None:
    streams, stream = connected(allocated=3)
    stream.put(b"abcdef")
    stream.end()
    assert heard(streams) == [(Operation.DATA, b"abc"), (Operation.CREDIT_REQUEST, b"")]
    streams.take(*said(Operation.CREDIT_UPDATE, allocated=3, forwarded=2))
    assert heard(streams) == [(Operation.DATA, b"de"), (Operation.CREDIT_REQUEST, b"")]
    streams.take(*said(Operation.CREDIT_UPDATE, allocated=3, forwarded=5))
    assert heard(streams) == [(Operation.DATA, b"f"), (Operation.SHUTDOWN, b"")]


def test_a_guest_that_receives_no_more_gets_no_more() -> None:
    streams, stream = connected()
    stream.put(b"lost")
    streams.take(*said(Operation.SHUTDOWN, flags=Shutdown.RECEIVES))
    stream.put(b"as well")
    assert heard(streams) == []
    assert stream.guest_sends
    assert not stream.guest_receives


def test_the_guest_s_credit_is_believed_up_to_a_limit() -> None:
    streams, stream = connected(allocated=0xFFFF_FFFF)
    total = 0
    for _ in range(2 * MOST_CREDIT // LIMIT):
        stream.put(bytes(stream.room))
        total += sum(len(data) for _, data in heard(streams))
    assert total == MOST_CREDIT


def test_many_small_packets_take_the_room_of_their_bytes() -> None:
    streams, stream = connected()
    streams.take(*said(Operation.DATA, b"x" * (LIMIT - 1000)))
    for _ in range(1000):
        streams.take(*said(Operation.DATA, b"x"))
    streams.take(*said(Operation.DATA, b""))
    assert stream.state is State.OPEN
    assert heard(streams) == []
    streams.take(*said(Operation.DATA, b"x"))
    assert heard(streams) == [(Operation.RESET, b"")]
    assert stream.take() == b"x" * LIMIT


def test_room_is_told_when_it_is_asked_for_and_when_much_is_there_again() -> None:
    streams, stream = connected()
    streams.take(*said(Operation.CREDIT_REQUEST))
    assert heard(streams) == [(Operation.CREDIT_UPDATE, b"")]
    streams.take(*said(Operation.DATA, bytes(LIMIT)))
    assert len(stream.take()) == LIMIT
    stream.forward(LIMIT // 2 - 1)
    assert heard(streams) == []
    stream.forward(1)
    packet, _ = parse_packet([memoryview(streams.next_packet(1))])
    assert packet.operation == Operation.CREDIT_UPDATE
    assert (packet.allocated, packet.forwarded) == (LIMIT, LIMIT // 2)


@pytest.mark.parametrize(
    "packet",
    [
        said(Operation.DATA, bytes(LIMIT + 1)),
        (said(Operation.DATA)[0]._replace(length=9), None),
        said(Operation.CREDIT_UPDATE, forwarded=1),
        said(Operation.REQUEST),
        said(Operation.RESPONSE),
        said(0),
        said(8),
        said(0xFFFF),
    ],
)
def test_what_cannot_be_resets_the_connection(packet: tuple[Packet, bytes | None]) -> None:
    streams, stream = connected()
    streams.take(*packet)
    assert stream.state is State.CLOSED
    assert heard(streams) == [(Operation.RESET, b"")]


@pytest.mark.parametrize(
    "more", [{"kind": 2}, {"source_cid": CID + 1}, {"target_cid": 3}, {"target_cid": 1 << 63}]
)
def test_what_is_for_nobody_is_answered_by_a_reset_and_changes_nothing(
    more: dict[str, int],
) -> None:
    streams, stream = connected()
    for operation in (Operation.SHUTDOWN, Operation.RESET):
        packet, data = said(operation, flags=BOTH)
        streams.take(packet._replace(**more), data)
    assert stream.state is State.OPEN
    packet, _ = parse_packet([memoryview(streams.next_packet(1))])
    assert packet.operation == Operation.RESET
    assert (packet.source_port, packet.target_port) == (FIRST_HOST_PORT, 1234)
    assert packet.target_cid == CID
    assert packet.source_cid == more.get("target_cid", 2)
    assert packet.kind == more.get("kind", 1)
    assert not streams.has_packet


def test_a_response_to_what_was_not_asked_yet() -> None:
    streams = Streams(CID)
    stream = streams.connect(1234)
    assert stream is not None
    streams.take(*said(Operation.RESPONSE))
    assert stream.state is State.CLOSED
    assert heard(streams) == []


def test_resets_and_connections_are_bounded() -> None:
    streams = Streams(CID)
    streams.on_request = lambda stream: None
    for guest in range(MOST_STREAMS + MOST_REFUSALS):
        assert not streams.waits_for_driver
        streams.take(*said(Operation.REQUEST, guest=guest, host=77))
    assert streams.waits_for_driver, "no packet of the guest's is looked at"
    assert len(streams) == MOST_STREAMS
    assert streams.connect(1) is None
    assert heard(streams) == [(Operation.RESET, b"")] * MOST_REFUSALS
    streams.clear()
    assert len(streams) == 0


def test_a_driver_s_reset_leaves_what_it_has_not_heard_of() -> None:
    streams, stream = connected()
    early = streams.connect(9)
    assert early is not None
    streams.take(*said(Operation.DATA, host=5))
    streams.clear()
    assert stream.state is State.CLOSED
    assert early.state is State.REQUESTED
    assert heard(streams) == [(Operation.REQUEST, b"")]


def test_ports_of_the_host_s_do_not_come_twice() -> None:
    streams = Streams(CID)
    ports = [stream.ports for stream in map(streams.connect, (1, 1, 2)) if stream is not None]
    assert [port.host - FIRST_HOST_PORT for port in ports] == [0, 1, 2]


def test_connections_take_turns() -> None:
    streams = Streams(CID)
    both = [streams.connect(guest) for guest in (1, 2)]
    heard(streams)
    for number, stream in enumerate(both):
        assert stream is not None
        streams.take(*said(Operation.RESPONSE, host=FIRST_HOST_PORT + number, guest=1 + number))
        stream.put(bytes([number]) * 4)
    assert heard(streams, 2) == [(Operation.DATA, bytes([n]) * 2) for n in (0, 1, 0, 1)]


# -- any conversation of sides that keep to the rules, byte for byte --


class Conversation(RuleBasedStateMachine):
    """A guest that keeps to the rules, with little room, over a connection that stays open."""

    def __init__(self) -> None:
        super().__init__()
        self.streams, self.stream = connected(allocated=40)
        self.sent = {"host": b"", "guest": b""}
        self.got = {"host": b"", "guest": b""}
        self.on_way = b""
        self.read = 0
        self.credit_end = LIMIT

    def say(self, operation: int, data: bytes = b"") -> None:
        self.streams.take(*said(operation, data, allocated=40, forwarded=self.read))

    @rule(data=st.binary(min_size=1, max_size=100))
    def the_host_sends(self, data: bytes) -> None:
        self.stream.put(data)
        self.sent["host"] += data

    @rule(share=st.sampled_from([1, 100, LIMIT // 2, LIMIT]))
    def the_guest_sends(self, share: int) -> None:
        size = min(share, self.credit_end - len(self.sent["guest"]))
        data = bytes([len(self.sent["guest"]) % 251]) * size
        self.say(Operation.DATA, data)
        self.sent["guest"] += data

    @rule(room=st.integers(1, 64))
    def the_guest_takes_a_packet(self, room: int) -> None:
        packet = self.streams.next_packet(room)
        if not packet:
            return
        header, data = parse_packet([memoryview(packet)])
        assert data is not None
        assert header.operation in (
            Operation.DATA, Operation.CREDIT_UPDATE, Operation.CREDIT_REQUEST,
        )  # fmt: skip
        self.got["guest"] += data
        assert len(self.got["guest"]) - self.read <= 40, "more than the guest has room for"
        self.credit_end = header.forwarded + header.allocated

    @rule(size=st.integers(1, 100))
    def the_guest_reads(self, size: int) -> None:
        self.read = min(self.read + size, len(self.got["guest"]))

    @rule()
    def the_guest_tells(self) -> None:
        self.say(Operation.CREDIT_UPDATE)

    @rule()
    def the_guest_asks(self) -> None:
        self.say(Operation.CREDIT_REQUEST)

    @precondition(lambda self: not self.on_way)
    @rule()
    def the_host_takes(self) -> None:
        self.on_way = self.stream.take()

    @precondition(lambda self: self.on_way)
    @rule()
    def it_has_arrived(self) -> None:
        self.got["host"] += self.on_way
        self.stream.forward(len(self.on_way))
        self.on_way = b""

    @invariant()
    def nothing_is_lost_or_made_up(self) -> None:
        assert self.stream.state is State.OPEN
        assert self.sent["host"].startswith(self.got["guest"])
        assert self.sent["guest"].startswith(self.got["host"])

    def teardown(self) -> None:
        """Everything arrives in the end."""
        for _ in range(2 * len(self.sent["host"]) // 40 + 4):
            self.the_guest_takes_a_packet(64)
            self.the_guest_reads(64)
            self.the_guest_tells()
        self.got["host"] += self.on_way + self.stream.take()
        assert self.got == {"host": self.sent["guest"], "guest": self.sent["host"]}


TestConversation = pytest.mark.slow(Conversation.TestCase)
TestConversation.settings = settings(max_examples=25, stateful_step_count=25)
