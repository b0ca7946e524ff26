# SPDX-License-Identifier: MIT
"""Split rings, and whatever a driver may write into them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.rings import (
    BadChainError,
    BrokenRingError,
    Chain,
    QueueLayout,
    QueuePlace,
    QueuePosition,
    UnreadableError,
)
from pyvmm.devices.virtio.split_ring import SplitRing

SIZE = 4
NEXT, WRITE, INDIRECT = 1, 2, 4
Descriptor = tuple[int, int, int, int]


NO_FEATURES = Feature(0)
BOTH = Feature.INDIRECT | Feature.EVENT_INDEX
PLACE = QueuePlace(SIZE, 0x1000, 0x2000, 0x3000)


class Rings:
    """Memory of a ring of four, and the ring; `tables` by their addresses."""

    def __init__(
        self,
        descriptors: list[Descriptor],
        index: int = 1,
        head: int = 0,
        *,
        features: Feature = NO_FEATURES,
        position: int = 0,
    ) -> None:
        layout = QueueLayout(PLACE, features)
        self.parts = [bytearray(length) for _, length in layout.ranges]
        for number, descriptor in enumerate(descriptors):
            struct.pack_into("<QIHH", self.parts[0], 16 * number, *descriptor)
        struct.pack_into("<HH", self.parts[1], 0, 0, index)
        struct.pack_into("<H", self.parts[1], 4 + 2 * (position % SIZE), head)
        views = [memoryview(part) for part in self.parts]
        self.ring = SplitRing(layout, views, QueuePosition(position, position))
        self.tables: dict[tuple[int, int], bytes] = {}

    def table(self, gpa: int, length: int) -> bytes:
        if (gpa, length) not in self.tables:
            raise UnreadableError("read a table", "it is private")
        return self.tables[gpa, length]

    def next(self) -> Chain | None:
        return self.ring.next(self.table)

    @property
    def used(self) -> tuple[int, ...]:
        """Flags, index, and the entries."""
        return struct.unpack_from("<HH8I", self.parts[2])


def packed_table(*descriptors: Descriptor) -> bytes:
    return b"".join(struct.pack("<QIHH", *one) for one in descriptors)


def test_a_chain_is_followed() -> None:
    rings = Rings([(0x5000, 16, NEXT, 2), (0, 0, 0, 0), (0x6000, 512, NEXT | WRITE, 3),
                   (0x7000, 1, WRITE, 0)])  # fmt: skip
    assert rings.next() == Chain(0, ((0x5000, 16),), ((0x6000, 512), (0x7000, 1)), 3)


def test_nothing_is_there_when_the_driver_is_no_further() -> None:
    assert Rings([], index=7, position=7).next() is None


def test_a_chain_stays_until_it_is_given_back() -> None:
    rings = Rings([(0x5000, 16, 0, 0)])
    chain = rings.next()
    assert chain == rings.next()
    assert chain is not None
    rings.ring.put_used([(chain, 3)])
    assert rings.used == (0, 1, 0, 3, 0, 0, 0, 0, 0, 0)
    assert rings.next() is None


def test_positions_wrap_at_16_bits() -> None:
    rings = Rings([(0x5000, 16, 0, 0)], index=0, position=0xFFFF)
    chain = rings.next()
    assert chain == Chain(0, ((0x5000, 16),), ())
    rings.ring.put_used([(chain, 7)])
    assert rings.used == (0, 0, 0, 0, 0, 0, 0, 0, 0, 7)
    assert rings.ring.position == QueuePosition(0, 0)


def test_a_table_of_descriptors_follows_others() -> None:
    rings = Rings(
        [(0x5000, 16, NEXT, 3), (0, 0, 0, 0), (0, 0, 0, 0), (0x9000, 32, INDIRECT | WRITE, 0)],
        features=BOTH,
    )
    rings.tables[0x9000, 32] = packed_table((0x6000, 8, NEXT, 1), (0x7000, 1, WRITE, 77))
    assert rings.next() == Chain(0, ((0x5000, 16), (0x6000, 8)), ((0x7000, 1),), 2)


@pytest.mark.parametrize(
    ("table", "length", "flags", "says"),
    [
        (b"", 0, INDIRECT, "its table has 0 bytes"),
        (b"", 24, INDIRECT, "its table has 24 bytes"),
        (b"", 16 * 1025, INDIRECT, "more than 1024 descriptors"),
        (b"", 16, INDIRECT, "it is private"),
        (packed_table((1, 1, 0, 0)), 16, INDIRECT | NEXT, "goes on behind a table"),
        (packed_table((1, 1, INDIRECT, 0)), 16, INDIRECT, "points to another"),
        (packed_table((1, 1, NEXT, 1)), 16, INDIRECT, "goes on at descriptor 1 of 1"),
        (packed_table((1, 1, NEXT, 0)), 16, INDIRECT, "more descriptors than its table"),
        (packed_table((1, 0, 0, 0)), 16, INDIRECT, "no bytes"),
        (packed_table((1, 1, WRITE | NEXT, 1), (1, 1, 0, 0)), 32, INDIRECT, "follows one to write"),
    ],
)
def test_a_table_that_cannot_be_is_refused(
    table: bytes, length: int, flags: int, says: str
) -> None:
    rings = Rings([(0x9000, length, flags, 1), (0x5000, 16, 0, 0)], features=BOTH)
    if table:
        rings.tables[0x9000, length] = table
    with pytest.raises(BadChainError, match=says) as refused:
        rings.next()
    assert refused.value.chain == Chain(0, (), ())


@pytest.mark.parametrize(
    ("index", "head", "says"),
    [(5, 0, "5 are said to be available"), (0xFFFF, 0, "65535"), (1, 4, "begins at descriptor 4")],
)
def test_a_ring_that_cannot_be_is_broken(index: int, head: int, says: str) -> None:
    with pytest.raises(BrokenRingError, match=says):
        Rings([(0x5000, 16, 0, 0)], index, head).next()


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
        Rings(descriptors).next()
    assert refused.value.chain == Chain(0, (), ())


@given(
    st.binary(min_size=16 * SIZE, max_size=16 * SIZE),
    st.binary(min_size=14, max_size=14),
    st.sampled_from([NO_FEATURES, Feature.INDIRECT, BOTH]),
)
def test_any_bytes_are_a_chain_or_refused(
    descriptors: bytes, available: bytes, features: Feature
) -> None:
    views = [memoryview(descriptors), memoryview(available), memoryview(b"")]
    ring = SplitRing(QueueLayout(PLACE, features), views, QueuePosition())
    try:
        chain = ring.next(lambda gpa, length: (descriptors * (length // 64 + 1))[:length])
    except (BadChainError, BrokenRingError):
        return
    if chain is not None:
        buffers = chain.readable + chain.writable
        assert 0 < len(buffers) <= 1024
        assert all(length and gpa + length <= 1 << 64 for gpa, length in buffers)


def test_the_driver_may_want_no_interrupt() -> None:
    rings = Rings([])
    assert rings.ring.wants_interrupt(QueuePosition())
    rings.parts[1][0] = 1
    assert not rings.ring.wants_interrupt(QueuePosition())
    assert not rings.ring.missed()


@pytest.mark.parametrize("new", [5, 0, 0x8000])
@pytest.mark.parametrize(
    ("given", "event", "wanted"),
    [(1, 1, True), (1, 0, False), (1, 2, False), (3, 1, True), (3, 3, True), (3, 4, False)],
)
def test_the_driver_wants_an_interrupt_at_a_position(
    new: int, given: int, event: int, wanted: bool
) -> None:
    """`event` is counted back from the new position: 1 is the last chain that was given back."""
    rings = Rings([], features=BOTH, position=new)
    struct.pack_into("<H", rings.parts[1], 4 + 2 * SIZE, (new - event) & 0xFFFF)
    assert rings.ring.wants_interrupt(QueuePosition(0, (new - given) & 0xFFFF)) is wanted


@pytest.mark.parametrize(("behind", "missed"), [(0, False), (1, True), (SIZE, True)])
def test_a_driver_may_have_missed_an_interrupt(behind: int, missed: bool) -> None:
    rings = Rings([], features=BOTH, position=3)
    struct.pack_into("<H", rings.parts[1], 4 + 2 * SIZE, (3 - behind) & 0xFFFF)
    assert rings.ring.missed() is missed


def test_notifications_are_asked_for_by_a_flag_or_by_position() -> None:
    flags = Rings([], position=7)
    flags.ring.ask_for_notifications(False)
    assert flags.used[0] == 1
    flags.ring.ask_for_notifications(True)
    assert flags.used[0] == 0
    events = Rings([], features=BOTH, position=7)
    events.ring.ask_for_notifications(False)
    assert not any(events.parts[2])
    events.ring.ask_for_notifications(True)
    assert struct.unpack_from("<H", events.parts[2], 4 + 8 * SIZE) == (7,)
    assert events.used[0] == 0


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
    assert QueueLayout(place).is_possible is is_possible


@pytest.mark.parametrize(
    ("place", "is_possible"),
    [
        (QueuePlace(6, 0x1000, 0x2000, 0x3000), True),
        (QueuePlace(6, 0x1000, 0x2002, 0x3000), False),
        (QueuePlace(6, 0x1000, 0x2000, 0x3002), False),
        (QueuePlace(1025, 0x1000, 0x2000, 0x3000), False),
        (QueuePlace(6, 0x1000, 0x2000, (1 << 64) - 4), True),
    ],
)
def test_places_of_a_packed_queue(place: QueuePlace, is_possible: bool) -> None:
    assert QueueLayout(place, Feature.PACKED).is_possible is is_possible


def test_positions_for_events_are_part_of_the_rings() -> None:
    layout = QueueLayout(PLACE, Feature.EVENT_INDEX)
    assert layout.ranges == ((0x1000, 64), (0x2000, 14), (0x3000, 38))
    assert QueueLayout(PLACE).ranges == ((0x1000, 64), (0x2000, 12), (0x3000, 36))
