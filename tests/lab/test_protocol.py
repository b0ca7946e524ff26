# SPDX-License-Identifier: MIT
"""The codec: whatever pieces bytes come in, and whatever they are."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.lab import failures
from pyvmm.lab.failures import LabPanicError
from pyvmm.lab.protocol import (
    PAYLOAD_MAX,
    Decoder,
    Fact,
    Frame,
    FrameType,
    Hello,
    ProtocolError,
    Request,
    StartFlag,
)

texts = st.binary(max_size=20).filter(lambda text: b"\0" not in text)
frames = st.builds(
    Frame,
    st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=200),
)


@given(st.lists(frames, max_size=6), st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_as_they_went_in(sent: list[Frame], pieces: list[int]) -> None:
    data = b"".join(frame.encode() for frame in sent)
    decoder, turn = Decoder(), 0
    got: list[Frame] = []
    while data:
        size = pieces[turn % len(pieces)]
        got += decoder.feed(data[:size])
        data, turn = data[size:], turn + 1
    assert got == sent
    assert decoder.is_between_frames


@given(st.binary(max_size=100))
def test_rubbish_is_refused_or_waited_for(data: bytes) -> None:
    decoder = Decoder()
    try:
        for frame in decoder.feed(data):
            assert len(frame.payload) <= PAYLOAD_MAX
    except ProtocolError:
        pass


@given(
    st.lists(texts, min_size=1, max_size=5),
    st.lists(texts, max_size=5),
    texts,
    st.sampled_from([StartFlag(0), StartFlag.MAY_FORK, StartFlag.TERMINAL_INPUT]),
    st.integers(0, 0o777),
)
def test_requests_come_out_as_they_went_in(
    arguments: list[bytes], environment: list[bytes], place: bytes, flags: StartFlag, mask: int
) -> None:
    request = Request(
        tuple(arguments), tuple(environment), place, flags, mask, (1, 2, 3, 4), b"a:b"
    )
    assert Request.decode(request.encode()) == request


@given(st.binary(max_size=60))
def test_a_broken_request_is_refused(data: bytes) -> None:
    with suppress(ProtocolError):
        Request.decode(data)


def test_hello() -> None:
    payload = (1).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"7.3.4"
    assert Hello.decode(payload) == Hello(1, Fact.KVM | Fact.PRIVATE_VM, "7.3.4")
    with pytest.raises(ProtocolError, match="make guests"):
        Hello.decode(b"\2" + payload[1:])
    with pytest.raises(ProtocolError):
        Hello.decode(b"")


def test_a_payload_that_is_too_long_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Frame(FrameType.DATA, payload=bytes(PAYLOAD_MAX + 1)).encode()


@pytest.mark.parametrize(
    "error", [LabPanicError("do it", "panic", "look"), HostLacksError("do it", "no KVM")]
)
def test_failures_keep_their_kind(error: PyvmmError) -> None:
    again = failures.from_bytes(failures.to_bytes(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


@pytest.mark.parametrize("payload", [b"", b"[]", b'["Nonsense", "", "", ""]', b"\xff", b"7"])
def test_a_failure_that_cannot_be_read_is_still_one(payload: bytes) -> None:
    assert isinstance(failures.from_bytes(payload), failures.LabError)
