# SPDX-License-Identifier: MIT
"""The engine of block queues and Python do the same with the same bytes, whatever these are."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.block import Status
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.rings import QueuePosition
from pyvmm.errors import SystemCallError
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.held_ranges import HeldKind
from pyvmm.hosts.kvm.conversions import FastConversions
from pyvmm.hosts.queue_engine import BlockEngine, BlockQueue, SplitQueue, Stopped
from pyvmm.machine.disks.raw import RawStore
from pyvmm.machine.virtio.block import block_device
from pyvmm.machine.virtio.engine_worker import EngineWorker
from pyvmm.machine.virtio.queue_worker import QueueWorker
from tests.machine.virtio.guest_pages import PAGE, GuestPages
from tests.machine.virtio.split_driver import (
    DESCRIPTORS,
    DEVICE,
    DRIVER,
    INDIRECT,
    PRIVATE,
    SIZE,
    WRITE,
    Descriptor,
    Event,
    bring_up,
    make_available,
)

HEADERS, STATUSES, DATA = 4 * PAGE, 5 * PAGE, 7 * PAGE
PAGES = 12
HANG = 120.0
SECTORS = 16
IN, OUT, FLUSH = 0, 1, 4
CONTENT = bytes(number * 7 + number // 512 & 0xFF for number in range(SECTORS * 512))


class Request(NamedTuple):
    """A request of a driver, good or bad."""

    descriptors: tuple[Descriptor, ...]
    header: bytes
    is_indirect: bool = False
    next_too_far: bool = False


class Side:
    """A block device whose driver has set its queue up, over memory and a disk of its own."""

    def __init__(self, features: Feature, *, read_only: bool, start: int) -> None:
        self.pages = GuestPages(PAGES * PAGE)
        self.pages.private.add(PRIVATE)
        self.file = os.memfd_create("disk", os.MFD_CLOEXEC)
        os.pwrite(self.file, CONTENT, 0)
        self.store = RawStore(self.file, len(CONTENT))
        made = block_device(self.store, "disk", read_only=read_only)
        self.core = VirtioCore(made.model)
        self.interrupts = 0
        self.end = b""
        """Content of the disk after all was done."""
        self.core.on_interrupt = self._count
        self.read_only = read_only
        self.features = features | Feature.VERSION_1
        bring_up(self.core, self.pages, 0, self.features, start)
        leases: Any = self.pages
        self.worker = QueueWorker(0, self.core, made.handler, leases, threading.Lock(), name="disk")

    def _count(self, queue: int | None) -> None:
        self.interrupts += queue is not None

    def put(self, requests: list[Request], flags: int, event: int, start: int) -> None:
        """Have a driver make requests available, each from its own descriptor on."""
        for number, request in enumerate(requests):
            self.pages.put(HEADERS + 16 * number, request.header)
        make_available(
            self.pages,
            requests,
            start,
            Event(flags, event),
            event_index=Feature.EVENT_INDEX in self.features,
        )

    def by_python(self, most: int | None = None) -> None:
        """Serve all, or `most` chains."""

        async def main() -> None:
            if most is None:
                while await self.worker.serve_batch():
                    pass
                return
            layout = self.core.running(0)
            assert layout is not None
            self.worker._epoch = self.core.begin(0)
            await self.worker._serve_ring(layout, self.core.position(0), most)
            self.core.end(0)

        trio.run(main)

    def by_engine(self) -> list[Stopped]:
        """Serve all by the engine, and what it leaves by Python. Return why it has stopped."""
        conversions = FastConversions(-1)
        conversions.held.add_region(0, 0, PAGES * PAGE, writable=True)
        conversions.held.place(0, memoryview(self.pages.bytes))
        for page in self.pages.private:
            conversions.held.note(page, PAGE, shared=False)
        reasons = []
        with Eventfd() as bell, Eventfd() as interrupt:
            while True:
                with self.engine(conversions, bell, interrupt) as engine:
                    reasons.append(engine.run(waits=False))
                    self.core.move(0, QueuePosition(*engine.position))
                assert not conversions.held.overlapping(HeldKind.LEASE, 0, PAGES * PAGE)
                if reasons[-1] is not Stopped.ODD_CHAIN:
                    break
                self.by_python(1)
            self.interrupts += interrupt.drain()
        return reasons

    def engine(self, conversions: FastConversions, bell: Eventfd, told: Eventfd) -> BlockEngine:
        position = self.core.position(0)
        return conversions.held.block_engine(
            SplitQueue(
                SIZE, DESCRIPTORS, DRIVER, DEVICE,
                indirect=Feature.INDIRECT in self.features,
                event_index=Feature.EVENT_INDEX in self.features,
                available=position.available,
                used=position.used,
                doorbell=bell.fileno(),
                interrupt=told.fileno(),
            ),
            BlockQueue(self.file, len(CONTENT), self.read_only),
        )  # fmt: skip

    @property
    def content(self) -> bytes:
        return os.pread(self.file, 2 * len(CONTENT), 0)


def good(kind: int, sector: int, *sizes: int, number: int = 0, indirect: bool = False) -> Request:
    """A request as drivers make them, with data in buffers of these sizes."""
    flags = WRITE if kind == IN else 0
    data = []
    gpa = DATA + 1024 * number
    for size in sizes:
        data.append((gpa, size, flags))
        gpa += size
    descriptors = (HEADERS + 16 * number, 16, 0), *data, (STATUSES + number, 1, WRITE)
    return Request(descriptors, struct.pack("<IIQ", kind, 0, sector), indirect)


def both(
    requests: list[Request],
    features: Feature,
    *,
    read_only: bool = False,
    flags: int = 0,
    event: int = 0,
    start: int = 0,
) -> tuple[Side, list[Stopped]]:
    """Have it done by both; what they have done is the same. Return the engine's side."""
    made = [Side(features, read_only=read_only, start=start) for _ in range(2)]
    python, engine = made
    for side in made:
        side.put(requests, flags, event, start)
    with python.store, engine.store:
        python.by_python()
        reasons = engine.by_engine()
        assert engine.core.needs_reset == python.core.needs_reset == False  # noqa: E712
        assert engine.core.position(0) == python.core.position(0)
        assert engine.pages.bytes == python.pages.bytes
        engine.end = engine.content
        assert engine.end == python.content
        assert bool(engine.interrupts) == bool(python.interrupts)
    return engine, reasons


FEATURES = [
    Feature(0), Feature.EVENT_INDEX, Feature.INDIRECT, Feature.INDIRECT | Feature.EVENT_INDEX,
]  # fmt: skip


@pytest.mark.parametrize("features", FEATURES, ids=str)
@pytest.mark.parametrize("start", [0, 0xFFFE])
def test_plain_requests_need_no_python(features: Feature, start: int) -> None:
    indirect = Feature.INDIRECT in features
    requests = [
        good(OUT, 3, 512, number=0, indirect=indirect),
        good(FLUSH, 0, number=1, indirect=indirect),
        good(IN, 2, 200, 312, 512, number=2, indirect=indirect),
    ]
    if not indirect:
        requests = [requests[0], requests[2]]
    side, reasons = both(requests, features, start=start, event=start)
    assert reasons == [Stopped.IDLE]
    assert side.interrupts
    assert side.core.position(0).used == (start + len(requests)) & 0xFFFF
    assert side.end[3 * 512 : 4 * 512] == bytes(512), "what the driver wrote is zeroes"


def test_a_driver_that_wants_no_interrupt_gets_none() -> None:
    one = [good(IN, 0, 512)]
    assert not both(one, Feature(0), flags=1)[0].interrupts
    assert not both(one, Feature.EVENT_INDEX, event=1)[0].interrupts
    assert both(one, Feature.EVENT_INDEX, event=0)[0].interrupts


@pytest.mark.parametrize(
    "request_",
    [
        good(8, 0, 20),
        good(11, 0, 16),
        good(77, 0, 512),
        good(IN, SECTORS, 512),
        good(IN, SECTORS - 1, 1024),
        good(IN, (1 << 64) - 1, 512),
        good(OUT, 0, 511),
        good(IN, 0),
        good(OUT, 0, 512)._replace(is_indirect=True),
        good(OUT, 0, 512)._replace(next_too_far=True),
        Request(((PRIVATE, 16, 0), (STATUSES, 1, WRITE)), bytes(16)),
        Request(((HEADERS, 16, 0), (DATA, 512, WRITE), (PRIVATE, 1, WRITE)), bytes(16)),
        Request(((HEADERS, 16, 0), (PRIVATE - 256, 512, WRITE), (STATUSES, 1, WRITE)), bytes(16)),
        Request(((HEADERS, 8, 0), (HEADERS + 8, 8, 0), (DATA, 513, WRITE)), bytes(16)),
        Request(((HEADERS, 16, 0),), bytes(16)),
        Request(((STATUSES, 1, WRITE), (HEADERS, 16, 0)), bytes(16)),
        Request(((HEADERS, 16, 0), (DATA, 0, WRITE), (STATUSES, 1, WRITE)), bytes(16)),
        Request(((HEADERS, 16, 0), ((1 << 64) - 8, 512, WRITE), (STATUSES, 1, WRITE)), bytes(16)),
        Request(((HEADERS, 16, 0), (STATUSES, 512, WRITE), (STATUSES, 1, WRITE)), bytes(16)),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_python_and_the_engine_goes_on(request_: Request) -> None:
    requests = [request_, good(IN, 1, 512, number=1)]
    side, reasons = both(requests, Feature(0))
    assert reasons == [Stopped.ODD_CHAIN, Stopped.IDLE]
    assert side.core.position(0).used == 2


def test_a_read_only_disk_is_not_written() -> None:
    side, reasons = both([good(OUT, 0, 512)], Feature(0), read_only=True)
    assert reasons[0] is Stopped.ODD_CHAIN
    assert side.end == CONTENT


_SECTOR = st.integers(0, SECTORS) | st.sampled_from([1 << 55, (1 << 64) - 1])
_GPA = st.sampled_from(
    [HEADERS, HEADERS + 8, STATUSES, DATA, DATA + 512, PRIVATE, PRIVATE - 8, 1 << 40, (1 << 64) - 4]
)
_LENGTH = st.sampled_from([0, 1, 8, 15, 16, 17, 20, 512, 513, 1024, 0xFFFF_FFFF])
_ANY = st.builds(
    Request,
    st.lists(
        st.tuples(_GPA, _LENGTH, st.sampled_from([0, WRITE, WRITE, INDIRECT])),
        min_size=1,
        max_size=4,
    ).map(tuple),
    st.builds(
        lambda kind, sector: struct.pack("<IIQ", kind, 0, sector),
        st.sampled_from([IN, OUT, FLUSH, 8, 11, 13, 99]),
        _SECTOR,
    ),
    st.booleans(),
    st.booleans(),
)


def _plain(number: int) -> st.SearchStrategy[Request]:
    return st.builds(
        lambda kind, sector, sizes, indirect: good(
            kind, sector, *sizes, number=number, indirect=indirect
        ),
        st.sampled_from([IN, OUT, FLUSH]),
        _SECTOR,
        st.lists(st.sampled_from([112, 400, 512]), max_size=2),
        st.booleans(),
    )


@given(
    st.tuples(*(_plain(number) | _ANY for number in range(2))),
    st.sampled_from(FEATURES),
    st.sampled_from([0, 1]),
    st.integers(0, 3),
    st.sampled_from([0, 5, 0xFFFF]),
    st.booleans(),
)
def test_both_do_the_same(
    requests: tuple[Request, ...],
    features: Feature,
    flags: int,
    event: int,
    start: int,
    read_only: bool,
) -> None:
    both(
        list(requests), features, read_only=read_only, flags=flags,
        event=start + event & 0xFFFF, start=start,
    )  # fmt: skip


@pytest.fixture
def set_up() -> Iterator[tuple[Side, FastConversions]]:
    side = Side(Feature(0), read_only=False, start=0)
    conversions = FastConversions(-1)
    conversions.held.add_region(0, 0, PAGES * PAGE, writable=True)
    conversions.held.place(0, memoryview(side.pages.bytes))
    with side.store:
        yield side, conversions


def test_a_ring_that_cannot_be_understood_stops_it(set_up: tuple[Side, FastConversions]) -> None:
    side, conversions = set_up
    with Eventfd() as bell, Eventfd() as told:
        side.pages.put(DRIVER, struct.pack("<HH", 0, SIZE + 1))
        with side.engine(conversions, bell, told) as engine:
            assert engine.run(waits=False) is Stopped.BROKEN
        side.pages.put(DRIVER, struct.pack("<HHH", 0, 1, SIZE))
        with side.engine(conversions, bell, told) as engine:
            assert engine.run(waits=False) is Stopped.BROKEN
        conversions.held.note(DEVICE, PAGE, shared=False)
        with side.engine(conversions, bell, told) as engine:
            assert engine.run(waits=False) is Stopped.BROKEN
        assert told.drain() == 0


@pytest.mark.parametrize("page", [DRIVER, HEADERS, DATA])
def test_memory_that_is_about_to_be_converted_is_not_touched(
    set_up: tuple[Side, FastConversions], page: int
) -> None:
    side, conversions = set_up
    side.put([good(IN, 1, 512)], 0, 0, 0)
    before = bytes(side.pages.bytes[DATA:])
    number = conversions.held.hold([(page, PAGE)], HeldKind.WAITING)
    with Eventfd() as bell, Eventfd() as told, side.engine(conversions, bell, told) as engine:
        assert engine.run(waits=False) is Stopped.VACATING
        assert engine.position == (0, 0)
        assert side.pages.bytes[DATA:] == before
        conversions.held.release(HeldKind.WAITING, number)
        assert engine.run(waits=False) is Stopped.IDLE
        assert engine.position == (1, 1)
        assert engine.counts.requests == 1
        assert side.pages.bytes[DATA : DATA + 512] == CONTENT[512:1024]


def test_who_waits_for_a_lease_is_told_of_at_the_end_of_a_batch(
    set_up: tuple[Side, FastConversions],
) -> None:
    side, conversions = set_up
    side.put([good(IN, 1, 512)], 0, 0, 0)
    # Of other memory: nothing is in the way of the engine's own leases.
    conversions.held.hold([(11 * PAGE, PAGE)], HeldKind.WAITING)
    with Eventfd() as bell, Eventfd() as told, side.engine(conversions, bell, told) as engine:
        assert engine.run(waits=False) is Stopped.VACATING
        assert engine.position == (1, 1)


def test_it_waits_for_the_doorbell_and_ends_when_kicked(
    set_up: tuple[Side, FastConversions],
) -> None:
    side, conversions = set_up
    with Eventfd() as bell, Eventfd() as told, side.engine(conversions, bell, told) as engine:
        reasons: list[Stopped] = []
        thread = threading.Thread(target=lambda: reasons.append(engine.run()))
        thread.start()
        side.put([good(IN, 1, 512)], 0, 0, 0)
        bell.signal()
        os.read(_waiting(told), 8)
        assert side.pages.bytes[STATUSES] == 0
        engine.kick()
        thread.join()
        assert reasons == [Stopped.KICKED]
        # A kick that comes first is not lost.
        engine.kick()
        assert engine.run() is Stopped.KICKED


def test_leases_that_are_too_many_are_waited_for(set_up: tuple[Side, FastConversions]) -> None:
    """They are others': the driver of this ring has broken nothing."""
    side, conversions = set_up
    side.put([good(IN, 1, 512)], 0, 0, 0)
    rows = struct.pack("=QQ", 0, 1) * 1024
    while (number := conversions.held.lease(rows, 1024, False)) > 0:
        last = number
    with Eventfd() as bell, Eventfd() as told, side.engine(conversions, bell, told) as engine:
        assert engine.run(waits=False) is Stopped.VACATING
        conversions.held.release(HeldKind.LEASE, last)
        assert engine.run(waits=False) is Stopped.IDLE
        assert engine.position == (1, 1)


class EngineSide:
    """A block device whose queue an `EngineWorker` serves, with an engine over `conversions`."""

    has_engines = True

    def __init__(self, side: Side, conversions: FastConversions, bell: Eventfd) -> None:
        self.side = side
        self.lease = side.pages.lease
        self.block_engine: Callable[[SplitQueue, BlockQueue], BlockEngine] = (
            conversions.held.block_engine
        )
        self.interrupts = 0
        leases: Any = self
        guard = threading.Lock()
        doorbell: Any = bell
        handler = side.worker._handler
        handler.on_ready = lambda _queue: self.worker.wake()
        self.worker = EngineWorker(
            0, side.core, handler, leases, guard, name="disk",
            bell=lambda: doorbell, interrupt=lambda: None,
        )  # fmt: skip

    def interrupt(self) -> None:
        """Nobody waits for a lease."""


def test_a_flush_that_the_kernel_tells_of_once_is_told_of_to_the_driver(
    set_up: tuple[Side, FastConversions],
) -> None:
    side, conversions = set_up

    async def main(broken: int) -> None:
        with Eventfd() as bell:
            made = EngineSide(side, conversions, bell)
            handler: Any = made.worker._handler
            work = handler.plain_work(0)
            # Of it no flush succeeds; of the disk, which is tried behind it, each would.
            broken_work = replace(work, disk=work.disk._replace(file=broken))
            handler.plain_work = lambda _queue: broken_work
            for number in range(2):
                told = trio.Event()
                side.core.on_interrupt = partial(_set, told)
                side.pages.put(STATUSES, b"\xff")
                side.put([good(FLUSH, 0)], 0, 0, number)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(made.worker.serve)
                    await told.wait()
                    nursery.cancel_scope.cancel()
                assert side.pages.bytes[STATUSES] == Status.IO_ERROR

    reading, writing = os.pipe()
    try:
        trio.run(main, reading)
    finally:
        os.close(reading)
        os.close(writing)


def test_an_engine_is_made_anew_of_what_changed_while_it_was_made(
    set_up: tuple[Side, FastConversions],
) -> None:
    """As when a vCPU gives the queue another vector just then."""
    side, conversions = set_up
    engines: list[BlockEngine] = []

    async def main() -> None:
        with Eventfd() as bell:
            made, again = EngineSide(side, conversions, bell), trio.Event()

            def block_engine(ring: SplitQueue, disk: BlockQueue) -> BlockEngine:
                if engines:
                    again.set()
                else:
                    made.worker.restart()
                engines.append(conversions.held.block_engine(ring, disk))
                return engines[-1]

            made.block_engine = block_engine
            with trio.fail_after(HANG):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(made.worker.serve)
                    await again.wait()
                    nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_descriptor_that_cannot_be_copied_is_told_in_words(
    set_up: tuple[Side, FastConversions], monkeypatch: pytest.MonkeyPatch
) -> None:
    side, conversions = set_up
    closed: list[int] = []

    def dup(fd: int) -> int:
        if closed:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        closed.append(copy := fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0))
        return copy

    async def main() -> None:
        with Eventfd() as bell:
            made = EngineSide(side, conversions, bell)
            with trio.fail_after(HANG):
                await made.worker.serve()

    monkeypatch.setattr(os, "dup", dup)
    with pytest.raises(ExceptionGroup) as raised:
        trio.run(main)
    (error,) = raised.value.exceptions
    while isinstance(error, ExceptionGroup):
        (error,) = error.exceptions
    assert isinstance(error, SystemCallError)
    assert error.errno == errno.EMFILE
    assert "Too many open files; allow" in str(error)
    # The first of the two copies is not left open.
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(closed[0])


def _set(told: trio.Event, _queue: int | None) -> None:
    told.set()


def _waiting(told: Eventfd) -> int:
    """The descriptor, of which a read waits."""
    os.set_blocking(told.fileno(), True)
    return told.fileno()


def test_an_error_of_the_host_s_is_left_to_python(tmp_path: Path) -> None:
    """A file that is shorter than it was: the guest is told by Python, as always."""
    side = Side(Feature(0), read_only=False, start=0)
    os.truncate(side.file, 512)
    side.put([good(IN, 1, 512)], 0, 0, 0)
    with side.store:
        assert side.by_engine() == [Stopped.ODD_CHAIN, Stopped.IDLE]
    assert side.pages.bytes[STATUSES] == 1
