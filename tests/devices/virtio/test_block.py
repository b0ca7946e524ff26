# SPDX-License-Identifier: MIT
"""Requests of a block device, however a driver cuts them into buffers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.block import (
    MOST_DISCARDED,
    MOST_SEGMENTS,
    MOST_ZEROED,
    BlockFeature,
    BlockModel,
    RequestKind,
    Segment,
    Status,
    parse,
)

CAPACITY = 8 * 512
IN, OUT, FLUSH, GET_ID, DISCARD, ZEROES = 0, 1, 4, 8, 11, 13
UNMAP = 1


def header(kind: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", kind, 0, sector)


def views(*parts: bytes) -> list[memoryview]:
    return [memoryview(bytearray(part)) for part in parts]


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 17])
def test_a_header_may_be_cut_anywhere(cut: int) -> None:
    whole = header(OUT, 3) + bytes(range(256)) * 2
    readable = views(*(part for part in (whole[:cut], whole[cut:]) if part))
    request = parse(readable, views(b"x"), CAPACITY)
    assert request is not None
    assert (request.kind, request.offset, request.refusal) == (RequestKind.OUT, 3 * 512, None)
    assert b"".join(request.data) == whole[16:]


def test_the_last_byte_to_write_is_the_status() -> None:
    room = bytearray(b"." * 513)
    request = parse(views(header(IN)), [memoryview(room)], CAPACITY)
    assert request is not None
    assert request.size == 512
    assert request.finish(Status.OK) == 513
    assert room == b"." * 512 + b"\0"


def test_the_header_is_copied() -> None:
    readable = views(header(OUT, 1), bytes(512))
    request = parse(readable, views(b"x"), CAPACITY)
    readable[0][8] = 0xFF
    assert request is not None
    assert request.offset == 512


@pytest.mark.parametrize(
    ("kind", "sector", "size", "refusal"),
    [
        (IN, 7, 512, None),
        (IN, 8, 512, Status.IO_ERROR),
        (IN, 7, 1024, Status.IO_ERROR),
        (IN, (1 << 64) - 1, 512, Status.IO_ERROR),
        (IN, 1 << 55, 512, Status.IO_ERROR),
        (IN, 0, 0, Status.IO_ERROR),
        (IN, 0, 511, Status.IO_ERROR),
        (OUT, 0, 512, None),
        (OUT, 8, 512, Status.IO_ERROR),
        (FLUSH, 99, 0, None),
        (GET_ID, 99, 20, None),
        (2, 0, 512, Status.UNSUPPORTED),
        (12, 0, 512, Status.UNSUPPORTED),
        (14, 0, 512, Status.UNSUPPORTED),
        (0xFFFF_FFFF, 0, 512, Status.UNSUPPORTED),
    ],
)
def test_what_is_to_be_done(kind: int, sector: int, size: int, refusal: Status | None) -> None:
    data = views(bytes(size)) if size else []
    readable = views(header(kind, sector)) + (data if kind == OUT else [])
    writable = ([] if kind == OUT else data) + views(b"x")
    request = parse(readable, writable, CAPACITY)
    assert request is not None
    assert request.refusal is refusal
    if refusal is not None:
        # Of data that were not written no byte is told.
        assert request.finish(refusal) == (0 if kind == IN else 1)
        assert writable[-1][0] == refusal


@pytest.mark.parametrize(
    ("readable", "writable"), [([], [b"x"]), ([b"1"], [b"x"]), ([bytes(16)], [])]
)
def test_without_a_header_or_a_status_it_is_no_request(
    readable: list[bytes], writable: list[bytes]
) -> None:
    assert parse(views(*readable), views(*writable), CAPACITY) is None


@pytest.mark.parametrize("size", [1, 20, 24])
def test_an_id_has_20_bytes_and_zeroes_behind_it(size: int) -> None:
    room = views(b"." * size, b"x")
    request = parse(views(header(GET_ID)), room, CAPACITY)
    assert request is not None
    request.put(b"a disk")
    assert bytes(room[0]) == b"a disk".ljust(24, b"\0")[:size]


def of_segments(
    kind: int, *segments: tuple[int, int, int], capacity: int = CAPACITY, behind: bytes = b""
) -> tuple[Status | None, tuple[Segment, ...]]:
    table = b"".join(struct.pack("<QII", *each) for each in segments) + behind
    request = parse(views(header(kind), *([table] if table else [])), views(b"x"), capacity)
    assert request is not None
    return request.refusal, request.segments


def test_segments_are_bytes_and_their_flags() -> None:
    assert of_segments(DISCARD, (1, 2, 0), (0, 8, 0)) == (
        None,
        (Segment(512, 1024, unmap=False), Segment(0, 4096, unmap=False)),
    )
    assert of_segments(ZEROES, (7, 1, UNMAP)) == (None, (Segment(3584, 512, unmap=True),))
    assert of_segments(ZEROES, (7, 1, 0)) == (None, (Segment(3584, 512, unmap=False),))


@pytest.mark.parametrize("kind", [DISCARD, ZEROES])
def test_segments_that_cannot_be(kind: int) -> None:
    refused = (Status.IO_ERROR, ())
    assert of_segments(kind) == refused
    assert of_segments(kind, behind=bytes(15)) == refused
    assert of_segments(kind, (0, 1, 0), behind=b"x") == refused
    assert of_segments(kind, (8, 1, 0)) == refused
    assert of_segments(kind, (7, 2, 0)) == refused
    # Sums that wrap in 64 bits.
    assert of_segments(kind, ((1 << 64) - 1, 1, 0)) == refused
    assert of_segments(kind, ((1 << 55) - 1, 2, 0)) == refused
    # None of several is done where one cannot be.
    assert of_segments(kind, (0, 1, 0), (8, 1, 0)) == refused
    for flag in (2, 1 << 31):
        assert of_segments(kind, (0, 1, flag)) == (Status.UNSUPPORTED, ())


def test_what_is_discarded_is_not_to_be_unmapped_as_well() -> None:
    assert of_segments(DISCARD, (0, 1, UNMAP)) == (Status.UNSUPPORTED, ())


def test_segments_are_bounded() -> None:
    huge = 1 << 50
    assert of_segments(DISCARD, (0, MOST_DISCARDED, 0), capacity=huge)[0] is None
    assert of_segments(DISCARD, (0, MOST_DISCARDED + 1, 0), capacity=huge)[0] is Status.IO_ERROR
    assert of_segments(ZEROES, (0, MOST_ZEROED, 0), capacity=huge)[0] is None
    assert of_segments(ZEROES, (0, MOST_ZEROED + 1, 0), capacity=huge)[0] is Status.IO_ERROR
    assert of_segments(DISCARD, *[(0, 1, 0)] * MOST_SEGMENTS)[0] is None
    assert of_segments(DISCARD, *[(0, 1, 0)] * (MOST_SEGMENTS + 1))[0] is Status.IO_ERROR


@pytest.mark.parametrize("kind", [OUT, DISCARD, ZEROES])
def test_a_read_only_disk_refuses_what_writes(kind: int) -> None:
    data = struct.pack("<QII", 0, 1, 0).ljust(512, b"\0")
    request = parse(views(header(kind), data), views(b"x"), CAPACITY, read_only=True)
    assert request is not None
    assert request.refusal is Status.IO_ERROR


@pytest.mark.parametrize("kind", [IN, FLUSH, GET_ID])
def test_a_read_only_disk_does_what_does_not_write(kind: int) -> None:
    request = parse(views(header(kind)), views(bytes(512), b"x"), CAPACITY, read_only=True)
    assert request is not None
    assert request.refusal is None


def number(config: bytes, offset: int, size: int) -> int:
    return int.from_bytes(config[offset : offset + size], "little")


def test_the_configuration_is_where_drivers_look_for_it() -> None:
    """Offsets of ``struct virtio_blk_config`` (5.2.4)."""
    config = BlockModel(CAPACITY, queues=3).config()
    assert len(config) == 60
    assert number(config, 0, 8) == 8  # capacity
    assert number(config, 12, 4) == 254  # seg_max
    assert number(config, 20, 4) == 512  # blk_size
    assert config[24] == 3  # physical_block_exp
    assert number(config, 26, 2) == 8  # min_io_size
    assert config[32] == 1  # writeback
    assert number(config, 34, 2) == 3  # num_queues
    assert [number(config, at, 4) for at in (36, 40, 44)] == [MOST_DISCARDED, MOST_SEGMENTS, 8]
    assert [number(config, at, 4) for at in (48, 52)] == [MOST_ZEROED, 1]
    assert config[56] == 1  # write_zeroes_may_unmap
    read_only = BlockModel(CAPACITY, read_only=True).config()
    assert [number(read_only, at, 4) for at in (36, 40, 48, 52, 56)] == [0] * 5


def test_what_is_offered() -> None:
    offered = BlockFeature(BlockModel(CAPACITY).features)
    assert BlockFeature.DISCARD | BlockFeature.WRITE_ZEROES | BlockFeature.FLUSH in offered
    assert not offered & (BlockFeature.READ_ONLY | BlockFeature.QUEUES)
    several = BlockModel(CAPACITY, queues=2)
    assert several.features & BlockFeature.QUEUES
    assert several.queue_sizes == (256, 256)
    read_only = BlockFeature(BlockModel(CAPACITY, read_only=True).features)
    assert BlockFeature.READ_ONLY in read_only
    assert not read_only & (BlockFeature.DISCARD | BlockFeature.WRITE_ZEROES)


def test_the_driver_decides_on_writing_back() -> None:
    model = BlockModel(CAPACITY)
    assert model.accept(BlockFeature.FLUSH)
    model.write_config(32, b"\0")
    assert not model.is_writeback
    assert model.config()[32] == 0
    saved = model.save()
    model.reset()
    assert model.is_writeback
    model.restore(saved)
    assert not model.is_writeback
    for offset, data in ((0, b"\1"), (31, b"\1\1"), (32, b"\1\1")):
        model.write_config(offset, data)
    assert not model.is_writeback
    assert number(model.config(), 0, 8) == 8
    assert model.accept(0)
    assert not model.is_writeback, "a driver that cannot flush was told that its writes may wait"


_KINDS = st.one_of(st.sampled_from([IN, OUT, FLUSH, GET_ID, DISCARD, ZEROES]), st.integers(0, 20))
_CUTS = st.lists(st.integers(1, 40), min_size=0, max_size=6)


def cut(data: bytes, sizes: list[int]) -> list[memoryview]:
    parts = []
    for size in sizes:
        parts.append(data[:size])
        data = data[size:]
    return views(*(part for part in [*parts, data] if part))


@given(
    _KINDS,
    st.integers(0, (1 << 64) - 1) | st.integers(0, 9),
    st.binary(max_size=600),
    st.integers(0, 1030),
    _CUTS,
    _CUTS,
    st.booleans(),
)
def test_whatever_is_asked_stays_on_the_disk_and_in_its_buffers(
    kind: int, sector: int, data: bytes, room: int, first: list[int], then: list[int], ro: bool
) -> None:
    readable = cut(header(kind, sector) + data, first)
    writable = cut(bytes(room), then)
    request = parse(readable, writable, CAPACITY, read_only=ro)
    if request is None:
        assert not room
        return
    total = sum(map(len, writable))
    if request.refusal is None:
        assert request.kind is not None
        if request.kind in (RequestKind.IN, RequestKind.OUT):
            assert 0 < request.size <= CAPACITY - request.offset
        for segment in request.segments:
            assert 0 <= segment.offset <= segment.offset + segment.length <= CAPACITY
        if ro:
            assert request.kind not in (RequestKind.OUT, RequestKind.DISCARD, ZEROES)
        status = Status.OK
    else:
        assert not request.segments
        status = request.refusal
    assert request.finish(status) <= total
    assert writable[-1][-1] == status
