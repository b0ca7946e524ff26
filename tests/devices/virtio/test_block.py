# SPDX-License-Identifier: MIT
"""Requests of a block device, however a driver cuts them into buffers."""

from __future__ import annotations

import struct

import pytest

from pyvmm.devices.virtio.block import RequestKind, Status, parse

CAPACITY = 8 * 512
IN, OUT, FLUSH, GET_ID = 0, 1, 4, 8


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
        (11, 0, 512, Status.UNSUPPORTED),
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
