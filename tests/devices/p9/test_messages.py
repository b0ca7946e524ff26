# SPDX-License-Identifier: MIT
"""Messages of 9P2000.L: bytes written down from the protocol's text, and back and forth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.p9 import messages
from pyvmm.devices.p9.fields import MessageError, Qid, decode, encode
from pyvmm.devices.p9.messages import HEADER, Kind

STRINGS = st.binary(max_size=12)
QIDS = st.builds(Qid, st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **{digit: st.integers(0, 2 ** (8 * int(digit)) - 1) for digit in "1248"},
    "s": STRINGS,
    "n": st.lists(STRINGS, max_size=4).map(tuple),
    "q": QIDS,
    "w": st.lists(QIDS, max_size=4).map(tuple),
}

WRITTEN_DOWN = [
    (
        "15000000 64 ffff 00200000 0800 3950323030302e4c",
        Kind.VERSION, 0xFFFF, messages.Version(8192, b"9P2000.L"),
    ),
    (
        "1d000000 68 0100 00000000 ffffffff 0400 726f6f74 0200 7773 00000000",
        Kind.ATTACH, 1, messages.Attach(0, messages.NO_FID, b"root", b"ws", 0),
    ),
    (
        "1b000000 6e 0200 00000000 01000000 0200 0100 61 0500 622e747874",
        Kind.WALK, 2, messages.Walk(0, 1, (b"a", b"b.txt")),
    ),
    (
        "17000000 74 0300 05000000 0010000000000000 00020000",
        Kind.READ, 3, messages.ReadPart(5, 4096, 512),
    ),
    (
        "2b000000 34 0400 07000000 01 01000000 0000000000000000 0a00000000000000 2c010000"
        "0500 6775657374",
        Kind.LOCK, 4, messages.Lock(7, 1, 1, 0, 10, 300, b"guest"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "tag", "request_"), WRITTEN_DOWN)
def test_a_request_has_the_bytes_of_the_protocols_text(
    text: str, kind: Kind, tag: int, request_: messages.Request
) -> None:
    data = bytes.fromhex(text)
    assert messages.request_bytes(kind, tag, request_) == data
    assert HEADER.unpack_from(data) == (len(data), kind, tag)
    assert messages.parse_request(kind, data[HEADER.size :]) == (request_, len(data) - HEADER.size)


@given(data=st.data(), kind=st.sampled_from(sorted(messages.LAYOUTS)))
def test_requests_and_replies_are_the_same_there_and_back(data: st.DataObject, kind: Kind) -> None:
    make, layout = messages.LAYOUTS[kind]
    values = tuple(data.draw(FIELDS[letter]) for letter in layout)
    body = encode(layout, values)
    assert messages.parse_request(kind, body) == (make(*values), len(body))
    with pytest.raises(MessageError):
        messages.parse_request(kind, body[: data.draw(st.integers(0, len(body) - 1))])
    if kind is not Kind.WRITE:
        with pytest.raises(MessageError):
            messages.parse_request(kind, body + b"\0")
    reply = tuple(data.draw(FIELDS[letter]) for letter in messages.REPLIES[kind])
    assert messages.parse_reply(kind, messages.reply_bytes(kind, 9, *reply)) == (*reply, b"")
    assert messages.parse_reply(kind, messages.error_bytes(9, 2)) == 2


def test_each_request_has_as_many_fields_as_its_layout() -> None:
    assert messages.LAYOUTS.keys() == messages.REPLIES.keys()
    for make, layout in messages.LAYOUTS.values():
        assert len(make._fields) == len(layout)


@given(number=st.integers(0, 255), body=st.binary(max_size=64))
def test_made_up_bytes_are_a_request_or_no_message(number: int, body: bytes) -> None:
    try:
        request, taken = messages.parse_request(number, body)
    except MessageError:
        return
    assert 0 <= taken <= len(body)
    if not isinstance(request, messages.Other):
        assert encode(messages.LAYOUTS[Kind(number)][1], request) == body[:taken]


def test_what_has_no_room_in_its_field_is_no_message() -> None:
    with pytest.raises(MessageError):
        encode("1", (256,))
    with pytest.raises(MessageError):
        encode("s", (b"x" * 65536,))


@pytest.mark.parametrize("letter", "1248snqw")
def test_a_field_needs_all_of_its_bytes(letter: str) -> None:
    with pytest.raises(MessageError, match="cut"):
        decode(letter, b"")
