# SPDX-License-Identifier: MIT
"""Packets of a guest's to a socket device, whatever they say."""

from __future__ import annotations

from pyvmm.devices.virtio.vsock import HEADER_SIZE, Operation, Packet, parse_packet
from pyvmm.devices.virtio.vsock_streams import (
    FIRST_HOST_PORT,
    LIMIT,
    MOST_REFUSALS,
    MOST_STREAMS,
    Stream,
    Streams,
)

from .target import Target

CID = 52


def one(data: bytes) -> None:
    """A byte before each packet has what the host does; no buffer grows beyond its size."""
    streams, ends = Streams(CID), list[Stream]()
    streams.on_request = ends.append
    view = memoryview(data)
    while len(view) > HEADER_SIZE and not streams.waits_for_driver:
        action, view = view[0], view[1:]
        packet, payload = parse_packet([view])
        view = view[HEADER_SIZE + len(payload or b"") :]
        if action & 1 and (stream := streams.connect(packet.source_port)):
            ends.append(stream)
        streams.take(packet, payload)
        for stream in ends:
            act(stream, action)
        if action & 2 and streams.has_packet:
            hear(streams)
        assert len(streams) <= MOST_STREAMS
    while streams.has_packet:
        hear(streams)
    streams.clear()
    streams.clear()
    assert len(streams) == 0


def act(stream: Stream, action: int) -> None:
    """Do what the bits of `action` say."""
    taken = stream.take()
    assert len(taken) <= LIMIT
    stream.forward(len(taken))
    if action & 4:
        stream.accept()
    if action & 8:
        stream.put(bytes(min(stream.room, 5000)))
    if action & 16:
        stream.end()
    if action & 32:
        stream.abort()


def hear(streams: Streams) -> None:
    """A packet is what it says it is."""
    packet, payload = parse_packet([memoryview(streams.next_packet(4096))])
    assert packet.target_cid == CID or not packet.operation
    assert payload is not None
    assert len(payload) <= 4096
    assert len(streams._refusals) <= MOST_REFUSALS + MOST_STREAMS


def packet(action: int, operation: Operation, data: bytes = b"", **more: int) -> bytes:
    """A packet of the guest's behind an action."""
    head = Packet(CID, 2, 1234, FIRST_HOST_PORT, len(data), 1, operation, allocated=LIMIT)
    return bytes([action]) + head._replace(**more).encoded() + data


TARGET = Target(
    one,
    [
        packet(4, Operation.REQUEST)
        + packet(2 | 8, Operation.DATA, b"hello")
        + packet(16, Operation.CREDIT_REQUEST)
        + packet(2, Operation.SHUTDOWN, flags=3),
        packet(3, Operation.CREDIT_UPDATE)
        + packet(2 | 8, Operation.RESPONSE)
        + packet(8, Operation.DATA, bytes(100), forwarded=40)
        + packet(2, Operation.RESET),
    ],
    most=1 << 12,
)
