# SPDX-License-Identifier: MIT
"""A network device without a machine: headers, commands, filter, state."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.net import NetModel, Role
from pyvmm.devices.virtio.net_control import ERROR, OK, perform
from pyvmm.devices.virtio.net_features import NetFeature
from pyvmm.devices.virtio.net_filter import MOST_ADDRESSES, Accepts
from pyvmm.devices.virtio.net_header import (
    DATA_VALID,
    ECN,
    HEAD,
    NEEDS_CHECKSUM,
    PLAIN,
    FrameHeader,
    Segments,
    checked_incoming,
    checked_outgoing,
    parse_header,
)
from pyvmm.devices.virtio.saved_net import SavedNet
from pyvmm.errors import UsageError
from pyvmm.net.frames import NO_OFFLOADS, Offload
from pyvmm.net.offloads import features_of, wanted_of

ALL = features_of(~NO_OFFLOADS)
MAC, OTHER = b"\x02card0", b"\x02other"
MULTICAST, BROADCAST = b"\x01\0\x5e\0\0\1", b"\xff" * 6
IP4, IP6, TAG = b"\x08\0", b"\x86\xdd", b"\x81\0\0\5"
LONGEST = 1518


def head(protocol: bytes, *tags: bytes) -> bytes:
    return (MAC + OTHER + b"".join(tags) + protocol + bytes(HEAD))[:HEAD]


def tcp(protocol: bytes = IP4, **more: int) -> FrameHeader:
    """The header of a frame that is to be cut, as Linux makes it."""
    kind = Segments.TCP4 if protocol == IP4 else Segments.TCP6
    made = FrameHeader(NEEDS_CHECKSUM, kind, 54, 1448, 34, 16)
    return made._replace(**more)


def checked(
    header: FrameHeader, first: bytes = head(IP4), size: int = 9000, features: int = ALL
) -> FrameHeader | None:
    found = checked_outgoing(header, first, size, features, LONGEST)
    return None if found is None else parse_header(found)


@pytest.mark.parametrize(
    ("size", "is_sent"), [(13, False), (14, True), (1518, True), (1519, False)]
)
def test_a_plain_frame_has_a_size_that_frames_have(size: int, is_sent: bool) -> None:
    assert (checked(FrameHeader(), size=size) is not None) == is_sent
    garbage = FrameHeader(DATA_VALID, 0, 7, 7, 7, 7, 7)
    assert checked_outgoing(garbage, b"", 60, 0, LONGEST) == PLAIN


@pytest.mark.parametrize(
    ("header", "size", "is_sent"),
    [
        (FrameHeader(NEEDS_CHECKSUM, start=34, offset=16), 54, True),
        (FrameHeader(NEEDS_CHECKSUM, start=34, offset=16), 52, True),
        (FrameHeader(NEEDS_CHECKSUM, start=34, offset=16), 51, False),
        (FrameHeader(NEEDS_CHECKSUM, start=13, offset=16), 60, False),
        (FrameHeader(NEEDS_CHECKSUM, start=65535, offset=65535), 60, False),
        (FrameHeader(NEEDS_CHECKSUM, start=14, offset=65535), 60, False),
    ],
    ids=["whole", "last", "behind", "addresses", "far", "wraps"],
)
def test_a_checksum_lies_in_its_frame(header: FrameHeader, size: int, is_sent: bool) -> None:
    assert checked(header, size=size) == (header if is_sent else None)
    assert checked(header, size=size, features=ALL & ~NetFeature.CSUM) is None


@pytest.mark.parametrize(
    ("header", "first"),
    [
        (tcp(), head(IP4)),
        (tcp(IP6), head(IP6)),
        (tcp(), head(IP4, TAG)),
        (tcp(), head(IP4, b"\x88\xa8\0\1", TAG)),
        (tcp(kind=Segments.TCP4 | ECN), head(IP4)),
        (tcp(kind=Segments.UDP, offset=6), head(IP6)),
        (tcp(kind=Segments.UDP, offset=6), head(IP4)),
    ],
    ids=["4", "6", "tagged", "twice", "ECN", "UDP6", "UDP4"],
)
def test_frames_that_are_to_be_cut(header: FrameHeader, first: bytes) -> None:
    assert checked(header, first) == header
    assert checked(header, first, size=65_550) == header
    assert checked(header, first, size=65_551) is None
    assert checked(header, first, features=NetFeature.CSUM) is None
    odd = header._replace(flags=0xFF, header_length=9001, buffers=9)
    assert checked(odd, first) == header._replace(header_length=9000), "no more than is so"


@pytest.mark.parametrize(
    ("header", "first", "size"),
    [
        (tcp(), head(IP6), 9000),
        (tcp(IP6), head(IP4), 9000),
        (tcp(), head(TAG[:2]), 9000),
        (tcp(), head(IP4, TAG, TAG, TAG), 9000),
        (tcp(), b"", 9000),
        (tcp(flags=0), head(IP4), 9000),
        (tcp(segment=0), head(IP4), 9000),
        (tcp(offset=6), head(IP4), 9000),
        (tcp(), head(IP4), 53),
        (tcp(kind=Segments.UDP), head(IP4), 9000),
        (tcp(kind=Segments.UDP | ECN, offset=6), head(IP4), 9000),
        (tcp(kind=3), head(IP4), 9000),
        (tcp(kind=2), head(IP4), 9000),
        (tcp(kind=ECN), head(IP4), 9000),
        (tcp(kind=0x7F), head(IP4), 9000),
    ],
    ids=str,
)
def test_headers_that_lie(header: FrameHeader, first: bytes, size: int) -> None:
    assert checked(header, first, size) is None


def test_ecn_is_a_feature_of_its_own() -> None:
    features = ALL & ~NetFeature.HOST_ECN
    assert checked(tcp(kind=Segments.TCP4 | ECN), features=features) is None
    assert checked(tcp(), features=features) is not None


@given(
    data=st.binary(min_size=12, max_size=12),
    first=st.binary(max_size=HEAD),
    size=st.integers(0, 70_000),
    features=st.integers(0, (1 << 57) - 1),
)
def test_what_is_passed_on_lies_in_the_frame(
    data: bytes, first: bytes, size: int, features: int
) -> None:
    found = checked(parse_header(data), first, size, features)
    if found is not None:
        assert found.header_length <= size <= 65_550
        assert not found.flags or 14 <= found.start <= found.start + found.offset + 2 <= size
        assert found.flags <= 1
        assert found.buffers == 1
        assert not found.kind or (found.flags and found.segment and features & NetFeature.CSUM)


def test_a_driver_gets_what_it_can_do() -> None:
    def incoming(header: FrameHeader, features: int) -> FrameHeader | None:
        made = checked_incoming(header, 3, features)
        return None if made is None else parse_header(made)

    plain = FrameHeader(DATA_VALID)
    assert incoming(plain, 0) == FrameHeader(buffers=3)
    assert incoming(plain, NetFeature.GUEST_CSUM) == FrameHeader(DATA_VALID, buffers=3)
    partial = FrameHeader(NEEDS_CHECKSUM, start=34, offset=16)
    assert incoming(partial, 0) is None
    assert incoming(partial, NetFeature.GUEST_CSUM) == partial._replace(buffers=3)
    assert incoming(tcp(), NetFeature.GUEST_CSUM) is None
    assert incoming(tcp(), NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO6) is None
    assert incoming(tcp(), NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4) is not None
    ecn = tcp(kind=Segments.TCP4 | ECN)
    assert incoming(ecn, NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4) is None
    assert incoming(ecn, ALL) is not None
    assert incoming(tcp(kind=77), ALL) is None


def test_offloads_of_a_wire_are_features_and_back() -> None:
    assert features_of(NO_OFFLOADS) == 0
    assert features_of(Offload.USO4) == NetFeature.GUEST_USO4, "the card's is for both or none"
    assert wanted_of(ALL) == (
        Offload.CHECKSUM | Offload.TSO4 | Offload.TSO6 | Offload.TSO_ECN | Offload.USO4
        | Offload.USO6
    )  # fmt: skip
    assert wanted_of(NetFeature.GUEST_CSUM | NetFeature.HOST_TSO4) == Offload.CHECKSUM


def model_with(features: int = 0, *, pairs: int = 1) -> NetModel:
    model = NetModel(MAC, offloads=ALL, pairs=pairs)
    assert not features & ~model.features
    assert model.accept(features or model.features)
    return model


@pytest.mark.parametrize(
    ("features", "holds"),
    [
        (NetFeature.CTRL_VQ | NetFeature.CTRL_RX, True),
        (NetFeature.CTRL_RX, False),
        (NetFeature.GUEST_TSO4, False),
        (NetFeature.GUEST_TSO4 | NetFeature.CSUM, False),
        (NetFeature.GUEST_TSO4 | NetFeature.GUEST_CSUM, True),
        (NetFeature.HOST_USO, False),
        (NetFeature.HOST_USO | NetFeature.CSUM, True),
        (NetFeature.HOST_ECN | NetFeature.CSUM, False),
        (NetFeature.GUEST_ECN | NetFeature.GUEST_TSO6 | NetFeature.GUEST_CSUM, True),
    ],
    ids=[*"abcdefghi"],
)
def test_features_come_with_what_they_need(features: int, holds: bool) -> None:
    assert NetModel(MAC, offloads=ALL).accept(features) == holds


def test_the_control_queue_is_behind_those_that_can_be_used() -> None:
    model = model_with(pairs=3)
    assert [model.role(queue) for queue in (0, 1, 5, 6, 7)] == [
        Role.RECEIVE, Role.TRANSMIT, Role.TRANSMIT, Role.CONTROL, None,
    ]  # fmt: skip
    model = model_with(NetFeature.CTRL_VQ, pairs=3)
    assert [model.role(queue) for queue in (0, 1, 2, 3)] == [
        Role.RECEIVE, Role.TRANSMIT, Role.CONTROL, None,
    ]  # fmt: skip
    assert model_with(NetFeature.MAC).role(2) is None
    assert len(model.queue_sizes) == 7


def table(unicast: list[bytes], multicast: list[bytes]) -> bytes:
    return b"\1\0" + b"".join(
        struct.pack("<I", len(one)) + b"".join(one) for one in (unicast, multicast)
    )


def test_a_driver_says_which_frames_it_wants() -> None:
    model = model_with()

    def wants(target: bytes, rest: bytes = OTHER + IP4) -> bool:
        return model.filter.wants(target + rest, model.mac)

    assert wants(OTHER), "all, until it says anything else"
    assert perform(model, b"\0\0\0") == OK
    assert [wants(one) for one in (MAC, OTHER, MULTICAST, BROADCAST)] == [True, False, False, True]
    assert perform(model, table([OTHER], [MULTICAST])) == OK
    assert wants(OTHER)
    assert wants(MULTICAST)
    assert perform(model, table([], [])) == OK
    assert not wants(OTHER)
    for number, target in ((1, MULTICAST), (2, OTHER)):
        assert perform(model, bytes([0, number, 1])) == OK
        assert wants(target)
    for number, target in ((3, MULTICAST), (4, MAC), (5, BROADCAST)):
        assert perform(model, bytes([0, number, 1])) == OK
        assert not wants(target)
        assert perform(model, bytes([0, number, 0])) == OK
        assert wants(target)
    assert perform(model, b"\1\1" + OTHER) == OK
    assert perform(model, b"\0\2\0") == OK
    assert model.config()[:6] == OTHER
    assert wants(OTHER)
    assert not wants(MAC)
    model.reset()
    assert model.mac == MAC
    assert wants(MULTICAST)


def test_a_table_that_is_too_long_is_every_address() -> None:
    model = model_with()
    many = [bytes([2, 0, 0, 0, 0, number]) for number in range(MOST_ADDRESSES + 1)]
    assert perform(model, b"\0\0\0") == OK
    assert perform(model, table(many, [])) == OK
    assert model.filter.wants(OTHER + MAC + IP4, MAC)
    assert not model.filter.wants(MULTICAST + MAC + IP4, MAC)
    assert perform(model, table(many[1:], [])) == OK
    assert not model.filter.wants(OTHER + MAC + IP4, MAC)
    assert model.filter.wants(many[1] + MAC + IP4, MAC)


def test_vlans_are_wanted_one_by_one() -> None:
    model = model_with()
    assert perform(model, b"\0\0\0") == OK
    tagged = MAC + OTHER + TAG + IP4
    assert not model.filter.wants(tagged, MAC)
    assert perform(model, b"\2\0\5\0") == OK
    assert model.filter.wants(tagged, MAC)
    assert perform(model, b"\2\1\5\0") == OK
    assert not model.filter.wants(tagged, MAC)
    assert not model.filter.wants(tagged[:15], MAC)
    untold = model_with(NetFeature.CTRL_VQ | NetFeature.CTRL_RX)
    assert perform(untold, b"\0\0\0") == OK
    assert untold.filter.wants(tagged, MAC)


@pytest.mark.parametrize(
    "request_",
    [
        b"", b"\0", b"\0\6\1", b"\0\0", b"\0\0\2", b"\0\0\1\1", b"\1\0", b"\1\0\0\0\0\0",
        b"\1\0\0\0\0\0\0\0\0\0\0", b"\1\0\xff\xff\xff\xff\0\0\0\0", b"\1\0\0\0\0\0\1\0\0\0\2",
        b"\1\1", b"\1\1" + bytes(6), b"\1\1" + MULTICAST, b"\1\1" + MAC + b"\0", b"\2\0\0\x10",
        b"\2\0\1", b"\3\0\0", b"\3\1", b"\4\0\0\0", b"\4\0\3\0", b"\4\0\1", b"\4\1\1\0",
        b"\5\0" + b"\xff" * 8, b"\5\0" + struct.pack("<Q", NetFeature.GUEST_TSO4), b"\5\0\0",
        b"\7\0",
    ],
    ids=bytes.hex,
)  # fmt: skip
def test_commands_that_are_refused_change_nothing(request_: bytes) -> None:
    model = model_with(pairs=2)
    before = model.save()
    assert perform(model, request_) == ERROR
    assert model.save() == before


@pytest.mark.parametrize(
    "request_",
    [b"\0\0\0", b"\0\2\1", table([], []), b"\1\1" + OTHER, b"\2\0\1\0", b"\3\0", b"\4\0\1\0",
     b"\5\0" + bytes(8)],
    ids=bytes.hex,
)  # fmt: skip
def test_commands_are_features(request_: bytes) -> None:
    assert perform(model_with(pairs=2), request_) == OK
    assert perform(model_with(NetFeature.CTRL_VQ, pairs=2), request_) == ERROR


@given(request_=st.binary(max_size=40))
def test_whatever_a_command_says_the_state_is_one_that_can_be(request_: bytes) -> None:
    model = model_with(pairs=2)
    for at in range(len(request_)):
        assert perform(model, request_[at:]) in (OK, ERROR)
    assert isinstance(model.save(), SavedNet)


def test_pairs_and_offloads_are_told() -> None:
    model, told = model_with(pairs=4), list[tuple[int, int]]()
    model.on_change = lambda: told.append((model.pairs, int(model.offloads)))
    assert perform(model, b"\4\0\3\0") == OK
    wanted = int(NetFeature.GUEST_CSUM | NetFeature.GUEST_TSO4)
    assert perform(model, b"\5\0" + struct.pack("<Q", wanted)) == OK
    assert told[-1] == (3, wanted)
    model.reset()
    assert told[-1] == (1, 0)


def test_state_goes_on_elsewhere_and_the_driver_is_to_say_where_it_is() -> None:
    model = model_with(pairs=3)
    for request in (
        b"\0\0\0", b"\0\3\1", table([OTHER], [MULTICAST, MULTICAST]), b"\1\1" + OTHER,
        b"\2\0\7\0", b"\2\0\1\0", b"\4\0\2\0", b"\5\0" + struct.pack("<Q", NetFeature.GUEST_CSUM),
    ):  # fmt: skip
        assert perform(model, request) == OK
    saved = model.save()
    assert saved == SavedNet(
        OTHER, 2, int(NetFeature.GUEST_CSUM), int(Accepts.NO_MULTICAST), (OTHER,),
        (MULTICAST, MULTICAST), (1, 7),
    )  # fmt: skip
    other = NetModel(MAC, offloads=ALL, pairs=3)
    other.reset()
    assert other.accept(model.accepted)
    for _ in range(2):
        other.restore(saved)
    assert other.save() == saved
    assert other.has_restored
    assert other.config()[6:8] == b"\3\0", "a link, and an announcement is wanted"
    assert perform(other, b"\3\0") == OK
    assert other.config()[6:8] == b"\1\0"


@pytest.mark.parametrize("pairs", [2, 3, 256])
def test_a_driver_without_several_pairs_has_one_whatever_was_saved(pairs: int) -> None:
    saved = model_with(pairs=3).save()
    for features, used in ((NetFeature.CTRL_VQ, 1), (NetFeature.CTRL_VQ | NetFeature.MQ, pairs)):
        other = NetModel(MAC, offloads=ALL, pairs=3)
        assert other.accept(features)
        other.restore(dataclasses.replace(saved, pairs=pairs))
        # Or the control queue, which is behind the pairs, were one of them.
        assert other.pairs == min(used, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"mac": MULTICAST}, {"mac": b""}, {"mac": bytes(6)}, {"pairs": 0}, {"pairs": 257},
        {"offloads": 2 | 1}, {"offloads": -1}, {"offloads": 1 << 7}, {"accepts": 256},
        {"unicast": (b"",)}, {"multicast": (MULTICAST,) * 65}, {"vlans": (4096,)},
    ],
    ids=str,
)  # fmt: skip
def test_no_card_was_saved_like_that(change: dict[str, object]) -> None:
    fields: dict[str, object] = {
        "mac": MAC, "pairs": 1, "offloads": 0, "accepts": 1, "unicast": (), "multicast": (),
        "vlans": None,
    }  # fmt: skip
    make: Callable[..., SavedNet] = SavedNet
    make(**fields)
    with pytest.raises(UsageError, match="was ever saved with such"):
        make(**{**fields, **change})
