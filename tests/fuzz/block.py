# SPDX-License-Identifier: MIT
"""A block queue as a hostile driver leaves it: Python and the engine do the same with it."""

from __future__ import annotations

import struct

from pyvmm.devices.virtio.features import Feature
from pyvmm.hosts.queue_engine import Stopped
from tests.machine.virtio.split_driver import (
    ANY_BYTES,
    PRIVATE,
    SIZE,
    TABLES,
    forget_notifications,
    lay_out,
)
from tests.machine.virtio.test_block_engine import (
    DATA,
    FEATURES,
    HEADERS,
    STATUSES,
    Side,
)

from .target import Target

_PLACES = (
    HEADERS, HEADERS + 16, HEADERS + 8, STATUSES, STATUSES + 1, DATA, DATA + 512, DATA + 1024,
    PRIVATE, PRIVATE - 8, TABLES, 1 << 40, (1 << 64) - 4,
)  # fmt: skip
_LENGTHS = (16, 1, 512, 1024, 0, 8, 15, 17, 32, 48, 20, 513, 0xFFFF_FFFF)
_KINDS = (0, 1, 4, 8, 11, 13, 99)
_SECTORS = (0, 1, 15, 16, 1 << 55, (1 << 64) - 1)
_HEADERS = 2
_START = 3
_LENGTH = _START + 2 * _HEADERS + ANY_BYTES


def _lay_out(side: Side, data: bytes) -> None:
    """Headers, then the available ring, then descriptors: the ring's, and those of two tables."""
    count, flags = data[1], data[2]
    at = _START
    for number in range(_HEADERS):
        kind, sector = _KINDS[data[at] % len(_KINDS)], _SECTORS[data[at + 1] % len(_SECTORS)]
        side.pages.put(HEADERS + 16 * number, struct.pack("<IIQ", kind, 0, sector))
        at += 2
    lay_out(
        side.pages,
        data[at:],
        _PLACES,
        _LENGTHS,
        count=count,
        flags=flags,
        event_index=Feature.EVENT_INDEX in side.features,
    )


def one(data: bytes) -> None:
    """Have both serve it; all of memory, the disk and the position are the same afterwards."""
    data = data[:_LENGTH].ljust(_LENGTH, b"\0")
    features, read_only = FEATURES[data[0] % len(FEATURES)], bool(data[0] & 0x80)
    python, engine = (Side(features, read_only=read_only, start=0) for _ in range(2))
    for side in (python, engine):
        _lay_out(side, data)
    with python.store, engine.store:
        python.by_python()
        is_broken = engine.by_engine()[-1] is Stopped.BROKEN
        assert is_broken == python.core.needs_reset
        if is_broken:
            for side in (python, engine):
                forget_notifications(side.pages)
        assert engine.core.position(0) == python.core.position(0)
        assert engine.pages.bytes == python.pages.bytes
        assert engine.content == python.content
        if not is_broken:
            assert bool(engine.interrupts) == bool(python.interrupts)


def _input(head: tuple[int, ...], *descriptors: tuple[int, int, int, int]) -> bytes:
    """An input of two requests at the most: `head` is features, count, flags and two headers."""
    flat = bytes(value for each in descriptors for value in each)
    return bytes(head) + bytes((0, 3, *[0] * (SIZE - 2))) + flat


_WRITTEN = ((0, 0, 1, 1), (5, 2, 1, 2), (3, 1, 2, 0))
_READ = ((1, 0, 1, 4), (6, 2, 3, 5), (4, 1, 2, 0))
_NONE = (0, 0, 0, 0)
TARGET = Target(
    one,
    [
        _input((0, 2, 0, 1, 1, 0, 2), *_WRITTEN, *_READ),
        _input((1, 2, 0, 1, 1, 0, 2), *_WRITTEN, *_READ),
        _input((0x80, 1, 1, 1, 0, 0, 0), *_WRITTEN),
        _input((3, 1, 0, 1, 1, 0, 0), (10, 9, 4, 0), *[_NONE] * 7, *_WRITTEN),
        _input((0, SIZE + 1, 0, 0, 0, 0, 0)),
    ],
    most=_LENGTH,
)
INSTRUMENTED = (
    "pyvmm.devices.virtio.split_ring",
    "pyvmm.devices.virtio.descriptors",
    "pyvmm.devices.virtio.block",
    "pyvmm.machine.virtio.block",
    "pyvmm.machine.virtio.queue_worker",
)
