# SPDX-License-Identifier: MIT
"""A network card without a VM, and a driver of it that is written from the specification."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import Feature
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.machine.hardware import DescriptorNet, NetCard
from pyvmm.machine.virtio.net import NetHandler, net_device
from pyvmm.machine.virtio.queue_server import QueueServer
from tests.devices.virtio.driver import Element, PackedDriver, Place, SplitDriver, Used, driver_of

from .guest_pages import PAGE, GuestPages
from .socket_wire import HEADER, SocketWire
from .test_queue_server import Side

RX, TX = 0, 1
SIZE = 16
"""Descriptors of each queue."""
QUEUE_PAGES = 4
BUFFERS = 0x10_0000
"""GPA of what is no ring."""
MAC = b"\x02card0"
PEER = b"\x02peer0"
FRAME = MAC + PEER + b"\x08\x00" + bytes(range(46))
"""A frame for the card, of the smallest size there is."""


class Card:
    """A card on a `SocketWire`, set up with `features` and one queue at each of `queues`."""

    def __init__(
        self,
        wire: SocketWire,
        features: int = 0,
        *,
        queues: Sequence[int] = (RX, TX),
        packed: bool = False,
        mtu: int | None = None,
    ) -> None:
        self.wire = wire
        self.packed = packed
        self.queues = queues
        self.features = features | Feature.VERSION_1 | (Feature.PACKED if packed else 0)
        self.pages = GuestPages(2 * BUFFERS, holder="net 0")
        card = NetCard(DescriptorNet(()), mac=MAC, mtu=mtu)
        device = net_device(card, wire, 0)
        assert isinstance(device.handler, NetHandler)
        self.handler = device.handler
        self.model = device.handler.model
        self.core = VirtioCore(device.model, more=Feature.PACKED)
        self.guard = threading.Lock()
        self.bells = {number: Eventfd() for number in range(self.core.queue_count)}
        leases: Any = self.pages
        self.server = QueueServer(
            self.core, self.handler, Side(self.bells), leases, self.guard, name="net 0"
        )
        self.interrupts: list[int | None] = []
        self._told = trio.Event()
        self.core.on_interrupt = self._interrupt
        self._free = BUFFERS

    def _interrupt(self, queue: int | None) -> None:
        self.interrupts.append(queue)
        self._told.set()

    def negotiate(self) -> bool:
        """Take the features. Return False where the device refuses."""
        self.core.write_status(0)
        self.core.write_status(3)
        for word in (0, 1):
            self.core.acknowledge(word, self.features >> 32 * word & 0xFFFF_FFFF)
        self.core.write_status(11)
        return bool(self.core.status & 8)

    def start(self) -> None:
        """Set the device up as a driver does."""
        with self.guard:
            assert self.negotiate()
            self.drivers: dict[int, SplitDriver | PackedDriver] = {}
            for number in self.queues:
                base = PAGE * QUEUE_PAGES * (1 + number)
                self.pages.bytes[base : base + PAGE * QUEUE_PAGES] = bytes(PAGE * QUEUE_PAGES)
                place = Place(SIZE, base, base + PAGE, base + 2 * PAGE)
                queue = self.core.queue(number)
                assert queue is not None
                queue.set_size(place.size)
                for part in range(3):
                    queue.set_address(part, place[1 + part])
                self.core.enable(number)
                self.drivers[number] = driver_of(
                    self.pages.bytes, place, packed=self.packed, events=False
                )
            self.core.write_status(15)
            assert self.core.status == 15

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Have the device served, and in the end nothing leased."""
        with ExitStack() as stack, trio.fail_after(60):
            for bell in self.bells.values():
                stack.enter_context(bell)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.server.serve)
                await wait_all_tasks_blocked()
                yield
                nursery.cancel_scope.cancel()
        assert self.pages.leased == 0

    def room(self, *sizes: int) -> list[Element]:
        """Buffers of these sizes, filled with 0xee, to be written by the device."""
        return [Element(self._take(b"\xee" * size), size, writable=True) for size in sizes]

    def data(self, *parts: bytes) -> list[Element]:
        """Buffers with these bytes, to be read by it."""
        return [Element(self._take(part), len(part), writable=False) for part in parts]

    def _take(self, content: bytes) -> int:
        gpa, self._free = self._free, self._free + len(content)
        self.pages.put(gpa, content)
        return gpa

    def add(self, queue: int, elements: Sequence[Element]) -> int:
        """Make a buffer available, and notify."""
        token = self.drivers[queue].add(elements)
        if self.drivers[queue].must_notify():
            self.bells[queue].signal()
        return token

    def send(self, frame: bytes, header: bytes = HEADER) -> int:
        """Send a frame as Linux does: header and frame in a buffer each."""
        return self.add(TX, self.data(header, frame))

    async def used(self, queue: int) -> list[Used]:
        """The next buffers that come back."""
        while True:
            self._told = trio.Event()
            if found := self.drivers[queue].collect():
                return found
            await self._told.wait()

    def content(self, elements: Sequence[Element]) -> bytes:
        """Bytes of buffers."""
        return b"".join(self.pages.bytes[gpa : gpa + size] for gpa, size, _ in elements)
