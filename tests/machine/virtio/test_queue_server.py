# SPDX-License-Identifier: MIT
"""The queue server between a driver written from the specification and a handler, without a VM."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import DeviceStatus, Feature
from pyvmm.devices.virtio.plain import PlainModel
from pyvmm.devices.virtio.rings import QueuePlace
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.interrupts import Doorbell
from pyvmm.hosts.queue_engine import SplitQueue, Stopped
from pyvmm.machine.virtio.queue_handler import BoundChain
from pyvmm.machine.virtio.queue_server import QueueServer
from tests.devices.virtio.driver import Element, Place, Used, driver_of
from tests.machine.virtio.guest_pages import PAGE, GuestPages

PLACE = Place(8, 0x1000, 0x2000, 0x3000)
TABLE, TO_READ, TO_WRITE = 0x4000, 0x5000, 0x6000
READY = 15
KINDS = [
    pytest.param(packed, events, id=f"{'packed' if packed else 'split'}{'-events' * events}")
    for packed in (False, True)
    for events in (False, True)
]


class Echo:
    """Writes what it reads, backwards. `gate` keeps it in the middle of a chain."""

    on_ready: Callable[[int], None]
    on_config_change: Callable[[], None]

    def __init__(self) -> None:
        self.ready = True
        self.gate: trio.Event | None = None
        self.begun = trio.Event()
        self.failure: Exception | None = None
        self.cancelled = False

    def is_ready(self, queue: int) -> bool:
        del queue
        return self.ready

    async def serve(self) -> None:
        await trio.lowlevel.checkpoint()

    async def handle(self, queue: int, chain: BoundChain) -> int:
        del queue
        self.begun.set()
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            try:
                await self.gate.wait()
            except trio.Cancelled:
                self.cancelled = True
                raise
        if self.failure is not None:
            raise self.failure
        data = b"".join(bytes(view) for view in chain.readable)[::-1]
        written = 0
        for view in chain.writable:
            part = data[written : written + len(view)]
            view[: len(part)] = part
            written += len(part)
        return written


class Side:
    """A transport with an eventfd for each queue."""

    def __init__(self, bells: Mapping[int, Eventfd]) -> None:
        self.bells = dict(bells)

    def doorbells(self, wanted: Sequence[int]) -> Mapping[int, Doorbell]:
        del wanted
        return dict(self.bells)


class Machine:
    """A device of one queue in a machine's nursery, and its driver."""

    def __init__(self, *, packed: bool, events: bool, handler: Echo | None = None) -> None:
        self.pages = GuestPages(holder="echo")
        self.pages.has_engines = handler is not None
        self.features = Feature.VERSION_1 | Feature.INDIRECT
        self.features |= Feature.PACKED if packed else Feature(0)
        self.features |= Feature.EVENT_INDEX if events else Feature(0)
        self.core = VirtioCore(PlainModel(42, (8,)), more=Feature.PACKED)
        self.guard = threading.Lock()
        self.handler = handler or Echo()
        self.bell = Eventfd()
        self.side = Side({0: self.bell})
        leases: Any = self.pages
        self.server = QueueServer(
            self.core, self.handler, self.side, leases, self.guard, name="echo"
        )
        self.interrupts: list[int | None] = []
        self.told = trio.Event()
        self.core.on_interrupt = self._interrupt
        self.packed, self.events = packed, events
        self.set_up()

    def _interrupt(self, queue: int | None) -> None:
        self.interrupts.append(queue)
        self.told.set()

    def set_up(self) -> None:
        self.pages.bytes[PLACE.descriptors : TABLE] = bytes(TABLE - PLACE.descriptors)
        self.driver = driver_of(self.pages.bytes, PLACE, packed=self.packed, events=self.events)

    def start(self) -> None:
        with self.guard:
            self.core.write_status(3)
            for word in (0, 1):
                self.core.acknowledge(word, self.features >> 32 * word & 0xFFFF_FFFF)
            self.core.write_status(11)
            queue = self.core.queue(0)
            assert queue is not None
            queue.set_size(PLACE.size)
            for part in range(3):
                queue.set_address(part, PLACE[1 + part])
            self.core.enable(0)
            self.core.write_status(READY)
            assert self.core.status == READY

    @asynccontextmanager
    async def serving(self, *, begun: bool) -> AsyncIterator[None]:
        with self.bell:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.server.serve)
                if begun:
                    await wait_all_tasks_blocked()
                yield
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert self.pages.leased == 0

    def add(self, data: bytes, room: int, at: int = 0, *, by_table: bool = False) -> int:
        self.pages.put(TO_READ + at, data)
        elements = [
            Element(TO_READ + at, len(data), writable=False),
            Element(TO_WRITE + at, room, writable=True),
        ]
        return self.driver.add(elements, TABLE + 32 * at if by_table else None)

    def kick(self) -> None:
        if self.driver.must_notify():
            self.bell.signal()

    async def used(self) -> list[Used]:
        """The next buffers that come back, by an interrupt."""
        while True:
            self.told = trio.Event()
            self.driver.ask_for_interrupts(True)
            if found := self.driver.collect():
                return found
            await self.told.wait()


def within(machine: Machine, act: Callable[[], Awaitable[None]], *, begun: bool = True) -> None:
    async def main() -> None:
        with trio.fail_after(60):
            async with machine.serving(begun=begun):
                await act()

    trio.run(main)


@pytest.mark.parametrize(("packed", "events"), KINDS)
@pytest.mark.parametrize("by_table", [False, True], ids=["ring", "table"])
def test_chains_come_back_with_interrupts_alone(packed: bool, events: bool, by_table: bool) -> None:
    machine = Machine(packed=packed, events=events)

    async def act() -> None:
        machine.start()
        for burst in (1, 3, 4, 1, 2, 4, 4, 3):
            tokens = {}
            for number in range(burst):
                data = bytes([burst, number, 7])
                tokens[machine.add(data, 8, 16 * number, by_table=by_table)] = number, data[::-1]
            machine.kick()
            while tokens:
                for token, written in await machine.used():
                    number, data = tokens.pop(token)
                    at = TO_WRITE + 16 * number
                    assert (written, bytes(machine.pages.bytes[at : at + 3])) == (3, data)

    within(machine, act)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize(
    "private", [TO_READ, TO_WRITE, TABLE], ids=["readable", "writable", "table"]
)
def test_a_private_page_is_never_reached_and_the_ring_goes_on(packed: bool, private: int) -> None:
    machine = Machine(packed=packed, events=True)

    async def act() -> None:
        machine.start()
        machine.pages.private.add(private)
        token = machine.add(b"abc", 8, by_table=private == TABLE)
        before = bytes(machine.pages.bytes[TABLE:])
        machine.kick()
        assert await machine.used() == [(token, 0)]
        assert machine.pages.bytes[TABLE:] == before
        machine.pages.private.clear()
        token = machine.add(b"abc", 8, by_table=private == TABLE)
        machine.kick()
        assert await machine.used() == [(token, 3)]

    within(machine, act)


@pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
@pytest.mark.parametrize("private", PLACE[1:], ids=["descriptors", "driver", "device"])
def test_a_private_ring_is_never_written_and_needs_a_reset(packed: bool, private: int) -> None:
    machine = Machine(packed=packed, events=True)

    async def act() -> None:
        machine.pages.private.add(private)
        before = bytes(machine.pages.bytes)
        machine.start()
        machine.bell.signal()
        await wait_all_tasks_blocked()
        assert machine.pages.bytes == before
        assert machine.core.status == READY | DeviceStatus.NEEDS_RESET
        assert machine.interrupts == [None]
        machine.pages.private.clear()
        machine.bell.signal()
        await wait_all_tasks_blocked()
        assert machine.pages.bytes == before

    within(machine, act)


@pytest.mark.parametrize(("packed", "events"), KINDS)
def test_a_reset_in_the_middle_ends_it_and_the_device_begins_anew(
    packed: bool, events: bool
) -> None:
    machine = Machine(packed=packed, events=events)

    async def act() -> None:
        machine.start()
        machine.handler.gate = trio.Event()
        machine.add(b"abc", 8)
        machine.kick()
        await machine.handler.begun.wait()
        before = bytes(machine.pages.bytes)
        with machine.guard:
            machine.core.write_status(0)
            assert machine.core.status == READY
        await wait_all_tasks_blocked()
        assert machine.handler.cancelled
        assert (machine.core.status, machine.pages.leased) == (0, 0)
        assert machine.pages.bytes == before
        assert machine.interrupts == []
        machine.handler.gate = None
        machine.set_up()
        machine.start()
        token = machine.add(b"xyz", 8)
        machine.kick()
        assert await machine.used() == [(token, 3)]

    within(machine, act)


def test_a_driver_may_be_ready_before_the_server() -> None:
    machine = Machine(packed=False, events=False)

    async def act() -> None:
        machine.start()
        for token in range(2):
            machine.add(b"abc", 8)
            machine.kick()
            assert await machine.used() == [(token, 3)]
            await wait_all_tasks_blocked()

    within(machine, act, begun=False)


@pytest.mark.parametrize(("packed", "events"), KINDS)
def test_notifications_are_off_while_there_is_work(packed: bool, events: bool) -> None:
    machine = Machine(packed=packed, events=events)

    async def act() -> None:
        machine.start()
        await wait_all_tasks_blocked()
        machine.handler.gate = trio.Event()
        machine.add(b"abc", 8)
        machine.kick()
        await machine.handler.begun.wait()
        machine.add(b"xyz", 8, 16)
        assert not machine.driver.must_notify()
        machine.handler.gate.set()
        await wait_all_tasks_blocked()
        assert machine.driver.collect() == [(0, 3), (1, 3)]
        machine.add(b"abc", 8)
        assert machine.driver.must_notify()

    within(machine, act)


def test_a_doorbell_of_a_device_that_does_not_run_is_drained() -> None:
    machine = Machine(packed=False, events=False)

    async def act() -> None:
        for status in (0, 3):
            machine.core.write_status(status)
            machine.bell.signal()
            await wait_all_tasks_blocked()
            assert not machine.bell.is_readable()

    within(machine, act)


def test_notifications_that_nobody_has_looked_at_are_one() -> None:
    """As of a guest that writes the register faster than the trio thread comes round."""
    machine = Machine(packed=False, events=False)
    looks: list[int] = []

    async def act() -> None:
        machine.server._workers[0].wake = lambda: looks.append(1)  # type: ignore[method-assign]
        for _ in range(1000):
            machine.core.on_notify(0)
        await trio.testing.wait_all_tasks_blocked()
        assert len(looks) == 1

    within(machine, act)


def test_doorbells_may_be_others_from_some_time_on() -> None:
    machine = Machine(packed=False, events=False)

    async def act() -> None:
        machine.start()
        machine.bell.close()
        machine.add(b"abc", 8)
        with Eventfd() as machine.bell:
            machine.side.bells = {0: machine.bell}
            with machine.guard:
                machine.server.doorbells_changed()
            # What was notified at a doorbell that is gone is looked at, too.
            assert await machine.used() == [(0, 3)]
            machine.add(b"abc", 8)
            await wait_all_tasks_blocked()
            machine.kick()
            assert await machine.used() == [(1, 3)]
            machine.side.bells = {}
            with machine.guard:
                machine.server.doorbells_changed()
        machine.add(b"abc", 8)
        with machine.guard:
            machine.core.notify(0)
        assert await machine.used() == [(2, 3)]

    within(machine, act)


def test_nothing_is_taken_before_the_handler_is_ready() -> None:
    machine = Machine(packed=False, events=True)

    async def act() -> None:
        machine.handler.ready = False
        machine.start()
        before = bytes(machine.pages.bytes[PLACE.device : TABLE])
        machine.add(b"abc", 8)
        machine.kick()
        await wait_all_tasks_blocked()
        assert (machine.pages.leased, machine.handler.begun.is_set()) == (0, False)
        assert machine.pages.bytes[PLACE.device : TABLE] == before
        machine.handler.ready = True
        machine.handler.on_ready(0)
        assert await machine.used() == [(0, 3)]

    within(machine, act)


@pytest.mark.parametrize("failure", [OSError(5, "a bad sector"), ValueError("no header")])
def test_a_chain_that_fails_comes_back_with_nothing_written(failure: Exception) -> None:
    machine = Machine(packed=False, events=False)

    async def act() -> None:
        machine.start()
        machine.handler.failure = failure
        machine.add(b"abc", 8)
        machine.kick()
        assert await machine.used() == [(0, 0)]
        machine.handler.failure = None
        machine.add(b"abc", 8)
        machine.kick()
        assert await machine.used() == [(1, 3)]

    within(machine, act)


def test_a_changed_configuration_is_told() -> None:
    machine = Machine(packed=False, events=False)

    async def act() -> None:
        machine.start()
        machine.handler.on_config_change()
        assert (machine.core.generation, machine.interrupts) == (1, [None])

    within(machine, act)


@pytest.mark.parametrize(("packed", "events"), KINDS)
@pytest.mark.parametrize("missed", [False, True])
def test_a_device_that_goes_on_elsewhere_looks_once_and_interrupts_for_what_was_missed(
    packed: bool, events: bool, missed: bool
) -> None:
    """Saved with a chain given back of which the interrupt is lost, and one that is available."""
    machine = Machine(packed=packed, events=events)

    async def first() -> None:
        machine.start()
        machine.driver.ask_for_interrupts(True)
        machine.add(b"abc", 8)
        machine.kick()
        await wait_all_tasks_blocked()

    within(machine, first)
    assert machine.interrupts == [0]
    other = Machine(packed=packed, events=events)
    other.pages, other.driver = machine.pages, machine.driver
    workers: Any = other.server._workers
    workers[0]._leases = machine.pages
    if not missed:
        assert other.driver.collect() == [(0, 3)]
        other.driver.ask_for_interrupts(True)
    expected = [] if not missed and events else [0]

    async def second() -> None:
        other.core.restore(machine.core.save())
        other.core.restore(machine.core.save())  # As a machine's devices are.
        await wait_all_tasks_blocked()
        assert other.interrupts == expected
        if missed:
            assert await other.used() == [(0, 3)]
        token = other.add(b"xyz", 8, 16)
        other.kick()
        assert await other.used() == [(token, 3)]
        assert other.interrupts == [*expected, 0]

    within(other, second)


@pytest.mark.parametrize(("packed", "events"), KINDS)
def test_a_chain_that_was_available_when_it_was_saved_is_done_elsewhere(
    packed: bool, events: bool
) -> None:
    machine = Machine(packed=packed, events=events)

    async def first() -> None:
        machine.handler.ready = False
        machine.start()
        machine.add(b"abc", 8)
        machine.kick()
        await wait_all_tasks_blocked()

    within(machine, first)
    other = Machine(packed=packed, events=events)
    other.pages, other.driver = machine.pages, machine.driver
    workers: Any = other.server._workers
    workers[0]._leases = machine.pages

    async def second() -> None:
        other.core.restore(machine.core.save())
        assert await other.used() == [(0, 3)]

    within(other, second)


def test_a_page_is_as_large_as_the_leases_think() -> None:
    assert PAGE == 4096
    assert QueuePlace(*PLACE).size == PLACE.size


class Waiting:
    """An engine, and work for it, that does nothing until it is kicked."""

    def __init__(self) -> None:
        self.made_of: list[SplitQueue] = []
        self.position = (0, 0)
        self._kicked = threading.Semaphore(0)

    def made(self, leases: Any, ring: SplitQueue) -> Waiting:
        del leases
        self.made_of.append(ring)
        self.position = ring.available, ring.used
        return self

    def begun(self, engine: Any) -> None: ...

    def ended(self, engine: Any) -> None: ...

    def looked_at(self, engine: Any) -> None: ...

    def run(self) -> Stopped:
        self._kicked.acquire()
        return Stopped.KICKED

    def kick(self) -> None:
        self._kicked.release()

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *_: object) -> None: ...


class Taken(Echo):
    """A handler whose queue is an engine's while `engine` is there."""

    engine: Waiting | None = None

    def plain_work(self, queue: int) -> Any:
        del queue
        return self.engine


def test_a_doorbell_is_whose_the_queue_is() -> None:
    handler = Taken()
    machine = Machine(packed=False, events=False, handler=handler)

    async def act() -> None:
        machine.start()
        # Nobody takes it yet: it comes back by Python.
        machine.add(b"abc", 3)
        machine.kick()
        assert (await machine.used())[0].written == 3
        engine = handler.engine = Waiting()
        handler.on_ready(0)
        while not engine.made_of:
            await trio.lowlevel.checkpoint()
        machine.add(b"def", 3)
        machine.bell.signal()
        await wait_all_tasks_blocked()
        assert machine.bell.is_readable(), "it is the engine's to be looked at"
        handler.engine = None
        handler.on_ready(0)
        assert (await machine.used())[0].written == 3
        await wait_all_tasks_blocked()
        assert not machine.bell.is_readable()
        machine.add(b"ghi", 3)
        machine.kick()
        assert (await machine.used())[0].written == 3

    within(machine, act)
