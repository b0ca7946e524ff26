# SPDX-License-Identifier: MIT
"""Split rings, and whatever a driver may write into them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.split_ring import (
    BadChainError,
    BrokenRingError,
    Chain,
    QueuePlace,
    SplitRing,
)

SIZE = 4
NEXT, WRITE, INDIRECT = 1, 2, 4
Descriptor = tuple[int, int, int, int]


class Rings:
    """Memory of a ring of four, and the ring."""

    def __init__(self, descriptors: list[Descriptor], index: int = 1, head: int = 0) -> None:
        place = QueuePlace(SIZE, 0x1000, 0x2000, 0x3000)
        self.parts = [bytearray(length) for _, length in place.ranges]
        for number, descriptor in enumerate(descriptors):
            struct.pack_into("<QIHH", self.parts[0], 16 * number, *descriptor)
        struct.pack_into("<HHH", self.parts[1], 0, 0, index, head)
        self.ring = SplitRing(SIZE, *(memoryview(part) for part in self.parts))

    @property
    def used(self) -> tuple[int, ...]:
        """Flags, index, and the entries."""
        return struct.unpack("<HH8I", self.parts[2])


def test_a_chain_is_followed() -> None:
    rings = Rings([(0x5000, 16, NEXT, 2), (0, 0, 0, 0), (0x6000, 512, NEXT | WRITE, 3),
                   (0x7000, 1, WRITE, 0)])  # fmt: skip
    assert rings.ring.next(0) == Chain(0, ((0x5000, 16),), ((0x6000, 512), (0x7000, 1)))


def test_nothing_is_there_when_the_driver_is_no_further() -> None:
    assert Rings([], index=7).ring.next(7) is None


def test_positions_wrap_at_16_bits() -> None:
    rings = Rings([(0x5000, 16, 0, 0)], index=0, head=3)
    struct.pack_into("<H", rings.parts[1], 4 + 2 * 3, 0)
    assert rings.ring.next(0xFFFF) == Chain(0, ((0x5000, 16),), ())
    rings.ring.put_used(0xFFFF, 0, 7)
    assert rings.used == (0, 0, 0, 0, 0, 0, 0, 0, 0, 7)


@pytest.mark.parametrize(
    ("index", "head", "says"),
    [(5, 0, "5 are said to be available"), (0xFFFF, 0, "65535"), (1, 4, "begins at descriptor 4")],
)
def test_a_ring_that_cannot_be_is_broken(index: int, head: int, says: str) -> None:
    with pytest.raises(BrokenRingError, match=says):
        Rings([(0x5000, 16, 0, 0)], index, head).ring.next(0)


@pytest.mark.parametrize(
    ("descriptors", "says"),
    [
        ([(0x5000, 16, NEXT, 0)], "more descriptors than the ring"),
        ([(0x5000, 16, NEXT, 1), (0x5000, 16, NEXT, 0)], "more descriptors than the ring"),
        ([(0x5000, 16, NEXT, 4)], "goes on at descriptor 4 of 4"),
        ([(0x5000, 16, INDIRECT, 0)], "not negotiated"),
        ([(0x5000, 0, 0, 0)], "no bytes"),
        ([((1 << 64) - 8, 16, 0, 0)], "longer than"),
        ([(0, 0xFFFF_FFFF, NEXT, 1), (0, 2, 0, 0)], "longer than"),
        ([(0x5000, 16, NEXT | WRITE, 1), (0x5000, 16, 0, 0)], "to read follows one to write"),
    ],
)
def test_a_chain_that_cannot_be_is_refused_by_its_head(
    descriptors: list[Descriptor], says: str
) -> None:
    with pytest.raises(BadChainError, match=says) as refused:
        Rings(descriptors).ring.next(0)
    assert refused.value.head == 0


@given(st.binary(min_size=16 * SIZE, max_size=16 * SIZE), st.binary(min_size=12, max_size=12))
def test_any_bytes_are_a_chain_or_refused(descriptors: bytes, available: bytes) -> None:
    ring = SplitRing(SIZE, memoryview(descriptors), memoryview(available), memoryview(b""))
    try:
        chain = ring.next(0)
    except (BadChainError, BrokenRingError):
        return
    if chain is not None:
        buffers = chain.readable + chain.writable
        assert 0 < len(buffers) <= SIZE
        assert all(length and gpa + length <= 1 << 64 for gpa, length in buffers)


def test_the_driver_may_want_no_interrupt() -> None:
    rings = Rings([])
    assert rings.ring.wants_interrupt
    rings.parts[1][0] = 1
    assert not rings.ring.wants_interrupt


@pytest.mark.parametrize(
    ("place", "is_possible"),
    [
        (QueuePlace(256, 0x1000, 0x2000, 0x3000), True),
        (QueuePlace(0, 0x1000, 0x2000, 0x3000), False),
        (QueuePlace(3, 0x1000, 0x2000, 0x3000), False),
        (QueuePlace(2048, 0x10000, 0x20000, 0x30000), False),
        (QueuePlace(4, 0x1008, 0x2000, 0x3000), False),
        (QueuePlace(4, 0x1000, 0x2001, 0x3000), False),
        (QueuePlace(4, 0x1000, 0x2000, 0x3002), False),
        (QueuePlace(4, (1 << 64) - 16, 0x2000, 0x3000), False),
        (QueuePlace(4, (1 << 64) - 64, 0x2000, 0x3000), True),
    ],
)
def test_places_of_a_queue(place: QueuePlace, is_possible: bool) -> None:
    assert place.is_possible is is_possible
