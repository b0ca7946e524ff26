# SPDX-License-Identifier: MIT
"""Both kinds of ring between a device and a driver that was written from the specification."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.packed_ring import PackedRing
from pyvmm.devices.virtio.rings import (
    BadChainError,
    BrokenRingError,
    Chain,
    QueueLayout,
    QueuePlace,
    QueuePosition,
    Ring,
    UnreadableError,
)
from pyvmm.devices.virtio.split_ring import SplitRing
from tests.devices.virtio.driver import Element, FullError, Place, SplitDriver, Used, driver_of

TABLES, BUFFERS, END = 0x8000, 0x1_0000, 0x2_0000


class Queue:
    """A ring in memory, its driver, and a device that goes to sleep and is woken."""

    def __init__(self, *, packed: bool, events: bool, size: int = 4) -> None:
        self.memory = bytearray(END)
        self.place = Place(size, 0x1000, 0x2000, 0x3000)
        self.driver = driver_of(self.memory, self.place, packed=packed, events=events)
        features = Feature.INDIRECT
        features |= Feature.PACKED if packed else Feature(0)
        features |= Feature.EVENT_INDEX if events else Feature(0)
        self.layout = QueueLayout(QueuePlace(*self.place), features)
        self.position = QueuePosition()
        self.device_sleeps = False
        self.device_waits = False
        """It sleeps until there is another chain behind those that it has not given back."""
        self.driver_sleeps = False
        self.expected: deque[tuple[int, list[Element]]] = deque()
        self.used: deque[tuple[int, int]] = deque()
        self.table = 0

    def ring(self) -> Ring:
        """Made anew each time: nothing may be in it but its position."""
        whole = memoryview(self.memory)
        views = [whole[gpa : gpa + size] for gpa, size in self.layout.ranges]
        return (PackedRing if self.layout.is_packed else SplitRing)(
            self.layout, views, self.position
        )

    def read(self, gpa: int, length: int) -> bytes:
        if gpa + length > END:
            raise UnreadableError("read a table", "no memory")
        return bytes(self.memory[gpa : gpa + length])

    # -- the driver --

    def add(self, elements: list[Element], *, by_table: bool) -> None:
        table = None
        if by_table:
            table = TABLES + 0x200 * self.table
            self.table = (self.table + 1) % 16
        try:
            token = self.driver.add(elements, table)
        except FullError:
            return
        self.expected.append((token, elements))
        if self.driver.must_notify():
            self.device_sleeps = self.device_waits = False
        assert not self.device_waits

    def collect(self) -> bool:
        """Take back all that is used; True where there was something."""
        found = self.driver.collect()
        for used in found:
            assert tuple(used) == self.used.popleft()
        assert not self.used
        return bool(found)

    def sleep(self) -> None:
        """Sleep until an interrupt: there is one for whatever is used from now on."""
        self.driver.ask_for_interrupts(True)
        while self.collect():
            self.driver.ask_for_interrupts(True)
        self.driver_sleeps = True

    def poll(self) -> None:
        self.driver_sleeps = False
        self.driver.ask_for_interrupts(False)
        self.collect()

    # -- the device --

    def serve(self, written: int = 0, together: int = 1) -> None:
        """Give back up to so many chains at once."""
        if self.device_sleeps:
            return
        ring = self.ring()
        before = ring.position
        given: list[tuple[Chain, int]] = []
        while len(given) < together:
            chain = ring.next(self.read)
            if chain is None:
                break
            token, elements = self.expected.popleft()
            assert chain.readable == tuple((e.gpa, e.length) for e in elements if not e.writable)
            assert chain.writable == tuple((e.gpa, e.length) for e in elements if e.writable)
            given.append((chain, written + len(given)))
            self.used.append((token, written + len(given) - 1))
            ring.pass_over(chain)
        if not given:
            ring.ask_for_notifications(True)
            assert ring.next(self.read) is None
            self.device_sleeps = True
            return
        ring.ask_for_notifications(False)
        ring.position = before
        ring.put_used(given)
        self.position = ring.position
        if ring.wants_interrupt(before):
            self.driver_sleeps = False

    def wait_for_more(self) -> None:
        """Look at all chains, and sleep until there is another."""
        ring = self.ring()
        ring.ask_for_notifications(False)
        while (chain := ring.next(self.read)) is not None:
            ring.pass_over(chain)
        ring.ask_for_notifications(True)
        assert ring.next(self.read) is None
        self.device_sleeps = self.device_waits = True

    def settle(self) -> None:
        """Both go on until each of them sleeps: nothing is left over."""
        if self.device_waits:
            self.device_sleeps = self.device_waits = False
        for _ in range(10 * self.place.size):
            self.serve()
            if not self.driver_sleeps:
                self.collect()
                self.sleep()
        assert self.device_sleeps
        assert self.driver_sleeps
        assert not self.expected
        assert not self.used


def elements_of(readable: int, writable: int) -> list[Element]:
    return [
        Element(BUFFERS + 64 * at, 8 + at, writable=at >= readable)
        for at in range(readable + writable)
    ]


KINDS = [
    pytest.param(packed, events, id=f"{'packed' if packed else 'split'}{'-events' * events}")
    for packed in (False, True)
    for events in (False, True)
]
SIZES = st.tuples(st.integers(0, 3), st.integers(0, 3)).filter(any)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), SIZES, st.booleans()),
        st.tuples(st.just("serve"), st.integers(0, 1 << 20), st.integers(1, 4)),
        st.tuples(st.sampled_from(["collect", "sleep", "poll", "wait_for_more"])),
    ),
    max_size=60,
)


def run(queue: Queue, steps: list[Any]) -> None:
    for name, *given_ in steps:
        if name == "add":
            queue.add(elements_of(*given_[0]), by_table=given_[1])
        elif name == "serve":
            queue.serve(*given_)
        elif name != "collect" or not queue.driver_sleeps:
            getattr(queue, name)()
    queue.settle()


@pytest.mark.parametrize(("packed", "events"), KINDS)
@given(steps=STEPS, size=st.sampled_from([2, 4, 8]))
def test_every_chain_comes_back_and_nobody_sleeps_through_it(
    packed: bool, events: bool, steps: list[Any], size: int
) -> None:
    run(Queue(packed=packed, events=events, size=size), steps)


@given(steps=STEPS, size=st.sampled_from([3, 5, 7]), events=st.booleans())
def test_a_packed_ring_may_have_any_size(steps: list[Any], size: int, events: bool) -> None:
    run(Queue(packed=True, events=events, size=size), steps)


@pytest.mark.parametrize(("packed", "events"), KINDS)
def test_positions_go_round_and_round(packed: bool, events: bool) -> None:
    queue = Queue(packed=packed, events=events)
    if isinstance(queue.driver, SplitDriver):
        begin(queue, queue.driver, 0xFFF0)
    for number in range(12):
        for _ in range(3):
            queue.add(elements_of(1, 0), by_table=False)
        queue.sleep()
        for _ in range(4):
            queue.serve(number)
        assert not queue.driver_sleeps
        queue.collect()
    queue.settle()


def begin(queue: Queue, driver: SplitDriver, index: int) -> None:
    """Be as if so many chains had been before."""
    driver.index = driver.told = driver.seen = index
    driver.put(queue.place.driver + 2, "H", index)
    driver.put(queue.place.device + 2, "H", index)
    queue.position = QueuePosition(index, index)


class Stores:
    """Words of a ring, and a call after each store to one."""

    def __init__(self, words: memoryview, after: Callable[[], None]) -> None:
        self.words = words
        self.after = after

    def __setitem__(self, at: int, value: int) -> None:
        self.words[at] = value
        self.after()


@pytest.mark.parametrize(("packed", "events"), KINDS)
def test_a_driver_sees_all_that_are_given_back_together_or_none(packed: bool, events: bool) -> None:
    queue = Queue(packed=packed, events=events, size=8)
    found: list[list[Used]] = []
    ring = queue.ring()
    words: Any = ring
    name = "_words" if packed else "_used_words"
    setattr(words, name, Stores(getattr(words, name), lambda: found.append(queue.driver.collect())))
    for _ in range(5):
        for _ in range(3):
            queue.add(elements_of(0, 1), by_table=False)
        position = ring.position
        given = []
        for number in range(3):
            chain = ring.next(queue.read)
            assert chain is not None
            given.append((chain, 1 + number))
            ring.pass_over(chain)
        ring.position = position
        found.clear()
        ring.put_used(given)
        assert [len(one) for one in found if one] == [3]
        assert [used.written for used in found[-1]] == [1, 2, 3]


HOSTILE = st.lists(
    st.one_of(
        st.tuples(st.just("add"), SIZES, st.booleans()),
        st.tuples(
            st.just("scribble"),
            st.sampled_from([0x1000, 0x2000, 0x3000, TABLES]),
            st.integers(0, 80),
            st.one_of(
                st.sampled_from([b"\xff\xff", b"\0\0", b"\1\0", b"\4\0", b"\x80\x80", b"\7\0"]),
                st.binary(min_size=1, max_size=16),
            ),
        ),
        st.tuples(st.just("serve")),
    ),
    max_size=30,
)


@pytest.mark.parametrize(("packed", "events"), KINDS)
@given(steps=HOSTILE)
def test_whatever_a_driver_writes_a_ring_answers_or_is_broken(
    packed: bool, events: bool, steps: list[Any]
) -> None:
    queue = Queue(packed=packed, events=events)
    for name, *given_ in steps:
        if name == "add":
            queue.add(elements_of(*given_[0]), by_table=given_[1])
            continue
        if name == "scribble":
            base, at, data = given_
            queue.memory[base + at : base + at + len(data)] = data
            continue
        ring = queue.ring()
        before = bytes(queue.memory)
        try:
            chain = ring.next(queue.read)
        except BrokenRingError:
            assert bytes(queue.memory) == before
            return
        except BadChainError as bad:
            chain = bad.chain
            assert chain.readable == chain.writable == ()
        if chain is None:
            continue
        require_bounds(chain, queue.place.size)
        ring.ask_for_notifications(True)
        position = ring.position
        ring.put_used([(chain, 0xFFFF_FFFF)])
        ring.wants_interrupt(position)
        ring.missed()
        queue.position = ring.position
        require_untouched(queue, before)


def require_bounds(chain: Chain, size: int) -> None:
    buffers = chain.readable + chain.writable
    assert len(buffers) <= 1024
    assert 1 <= chain.descriptors <= size
    assert all(length and gpa + length <= 1 << 64 for gpa, length in buffers)
    assert sum(length for _, length in buffers) <= 1 << 32


def require_untouched(queue: Queue, before: bytes) -> None:
    """Nothing is written but the parts of the ring that are the device's to write."""
    kept = bytearray(queue.memory)
    _, _, (device, length) = queue.layout.ranges
    kept[device : device + length] = before[device : device + length]
    if queue.layout.is_packed:
        descriptors, length = queue.layout.ranges[0]
        kept[descriptors : descriptors + length] = before[descriptors : descriptors + length]
    assert kept == before


# -- the packed ring by bytes --


def packed(
    *descriptors: tuple[int, int, int, int], features: Feature = Feature.PACKED, number: int = 0
) -> PackedRing:
    layout = QueueLayout(QueuePlace(4, 0x1000, 0x2000, 0x3000), features)
    parts = [bytearray(length) for _, length in layout.ranges]
    for at, one in enumerate(descriptors):
        struct.pack_into("<QIHH", parts[0], 16 * ((number + at) % 4), *one)
    views = [memoryview(part) for part in parts]
    return PackedRing(layout, views, QueuePosition(number, number))


def no_tables(gpa: int, length: int) -> bytes:
    raise UnreadableError(f"read {length} bytes at {gpa:#x}", "it is private")


AVAIL, USED, NEXT, WRITE, INDIRECT = 1 << 7, 1 << 15, 1, 2, 4


def test_a_chain_goes_on_behind_the_end_with_the_other_counter() -> None:
    ring = packed((0x5000, 4, 9, AVAIL | NEXT), (0x6000, 8, 7, USED | WRITE), number=3)
    chain = ring.next(no_tables)
    assert chain == Chain(7, ((0x5000, 4),), ((0x6000, 8),), 2)
    ring.put_used([(chain, 5)])
    assert ring.position == QueuePosition(1, 1, False, False)
    (_, length, ident, flags) = struct.unpack_from("<QIHH", ring._descriptors, 48)
    assert (length, ident, flags) == (5, 7, AVAIL | USED | WRITE)
    assert ring.next(no_tables) is None


@pytest.mark.parametrize(
    ("descriptors", "says"),
    [
        ([(0, 1, 0, AVAIL | NEXT)] * 4, "more descriptors than the ring, 4"),
        ([(0, 1, 0, AVAIL | NEXT), (0, 1, 0, 0)], "not available"),
        ([(0, 1, 0, AVAIL | NEXT), (0, 1, 0, AVAIL | USED)], "not available"),
    ],
)
def test_a_packed_ring_that_cannot_be_is_broken(
    descriptors: list[tuple[int, int, int, int]], says: str
) -> None:
    with pytest.raises(BrokenRingError, match=says):
        packed(*descriptors).next(no_tables)


@pytest.mark.parametrize(
    ("descriptors", "says", "count"),
    [
        ([(0, 0, 3, AVAIL)], "no bytes", 1),
        ([(0, 16, 3, AVAIL | INDIRECT)], "it is private", 1),
        ([(0, 24, 3, AVAIL | INDIRECT)], "24 bytes", 1),
        ([(0, 1, 0, AVAIL | NEXT), (0, 16, 3, AVAIL | INDIRECT)], "by itself", 2),
        ([(0, 1, 0, AVAIL | NEXT | WRITE), (0, 1, 3, AVAIL)], "follows one to write", 2),
    ],
)
def test_a_packed_chain_that_cannot_be_is_given_back_whole(
    descriptors: list[tuple[int, int, int, int]], says: str, count: int
) -> None:
    ring = packed(*descriptors, features=Feature.PACKED | Feature.INDIRECT)
    with pytest.raises(BadChainError, match=says) as bad:
        ring.next(no_tables)
    ring.put_used([(bad.value.chain, 0)])
    assert ring.position == QueuePosition(count, count)


@settings(max_examples=50)
@given(st.binary(min_size=64, max_size=64), st.binary(min_size=4, max_size=4))
def test_any_bytes_are_a_packed_chain_or_refused(descriptors: bytes, events: bytes) -> None:
    layout = QueueLayout(QueuePlace(4, 0, 0, 0), Feature.PACKED | Feature.INDIRECT)
    views = [memoryview(part) for part in (bytearray(descriptors), events, bytearray(4))]
    ring = PackedRing(layout, views, QueuePosition())
    try:
        chain = ring.next(lambda gpa, length: (descriptors * (length // 64 + 1))[:length])
    except (BadChainError, BrokenRingError):
        return
    if chain is not None:
        require_bounds(chain, 4)
