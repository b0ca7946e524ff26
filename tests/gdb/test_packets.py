# SPDX-License-Identifier: MIT
"""Bytes of a connection as packets: whole, in pieces, damaged, hostile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.gdb.packets import (
    LONGEST,
    BrokenPacketError,
    PacketReader,
    Signal,
    escaped_prefix,
    packet,
)


def test_packets_and_signals_come_in_order() -> None:
    reader = PacketReader()
    assert list(reader.feed(b"+$g#67\x03-$m10,4#2e")) == [
        Signal.ACKNOWLEDGED, b"g", Signal.INTERRUPT, Signal.RESEND, b"m10,4",
    ]  # fmt: skip


def test_a_wrong_checksum_is_no_packet_and_the_next_one_is() -> None:
    assert list(PacketReader().feed(b"$g#68$g#67")) == [Signal.DAMAGED, b"g"]
    assert list(PacketReader().feed(b"$g#zz")) == [Signal.DAMAGED]


@given(st.lists(st.binary(max_size=40), max_size=5), st.data())
def test_what_is_sent_is_what_comes_however_it_is_cut(
    parts: list[bytes], data: st.DataObject
) -> None:
    wire = b"".join(map(packet, parts))
    reader, come = PacketReader(), list[bytes | Signal]()
    while wire:
        size = data.draw(st.integers(1, len(wire)))
        come += reader.feed(wire[:size])
        wire = wire[size:]
    assert come == parts


@pytest.mark.parametrize("sent", [b"x", b"\0", b"#00", b"$}#7d", b"GET / HTTP/1.1\r\n"])
def test_no_packet_at_all_is_refused(sent: bytes) -> None:
    with pytest.raises(BrokenPacketError):
        list(PacketReader().feed(sent))


def test_a_packet_without_end_is_refused_before_it_takes_memory() -> None:
    reader = PacketReader()
    assert list(reader.feed(packet(b"x" * LONGEST))) == [b"x" * LONGEST]
    with pytest.raises(BrokenPacketError, match="longer than"):
        list(reader.feed(b"$" + b"x" * (LONGEST + 1)))


@given(st.binary(max_size=300))
def test_any_bytes_give_packets_or_are_refused(sent: bytes) -> None:
    reader = PacketReader()
    try:
        items = list(reader.feed(sent))
    except BrokenPacketError:
        return
    assert all(isinstance(one, Signal) or len(one) <= LONGEST for one in items)


@given(st.binary(max_size=60), st.integers(0, 80))
def test_a_prefix_fits_when_it_is_escaped(data: bytes, room: int) -> None:
    part = escaped_prefix(data, room)
    assert data.startswith(part)
    assert len(packet(part)) - len("$#00") <= room
    if part != data:
        assert len(packet(data[: len(part) + 1])) - len("$#00") > room
