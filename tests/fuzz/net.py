# SPDX-License-Identifier: MIT
"""A network card between a hostile driver and a hostile network."""

from __future__ import annotations

import struct
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import trio

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.net import NetModel
from pyvmm.devices.virtio.net_header import HEADER_SIZE, MOST_FRAME, FrameHeader, parse_header
from pyvmm.devices.virtio.saved_net import SavedNet
from pyvmm.machine.hardware import DescriptorNet, NetCard
from pyvmm.machine.virtio.net import NetHandler, net_device
from pyvmm.machine.virtio.queue_worker import QueueWorker
from pyvmm.net.frames import NO_OFFLOADS, Offload
from tests.devices.virtio.driver import Element, FullError, Place, SplitDriver
from tests.machine.virtio.guest_pages import PAGE, GuestPages

from .target import Target

_RX, _TX, _CONTROL = 0, 1, 4
_SIZE: Final = 8
_PAGES: Final = 64
_PRIVATE: Final = 40 * PAGE
_READ, _WRITTEN = 16 * PAGE, 42 * PAGE
_SIZES = (1, 11, 12, 13, 14, 26, 60, 100, 1526, 4096, 20_000, 0, 70_000)
_MAC = b"\x02fuzz0"


class _Line:
    """A queue of a wire without a descriptor."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()
        self.sent: list[bytes] = []

    def fileno(self) -> int:
        return -1

    def receive(self, views: Sequence[memoryview]) -> int:
        if not self.waiting:
            raise BlockingIOError
        frame, at = self.waiting.popleft(), 0
        for view in views:
            part = frame[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
        return at

    def send(self, views: Sequence[memoryview]) -> None:
        self.sent.append(b"".join(views))


class _Wire:
    mtu = 1500
    descriptors = ()

    def __init__(self) -> None:
        self.offloads = ~NO_OFFLOADS
        self.lines = [_Line(), _Line()]
        self.queues = self.lines

    def receive_with(self, wanted: Offload) -> None:
        assert wanted in self.offloads

    def use_queues(self, count: int) -> None:
        assert count in (1, 2)


class _Card:
    """A card whose driver has set three queues up, with features that the input chooses."""

    def __init__(self, choice: int) -> None:
        self.wire = _Wire()
        device = net_device(NetCard(DescriptorNet(()), mac=_MAC), self.wire, 0)
        assert isinstance(device.handler, NetHandler)
        assert isinstance(device.model, NetModel)
        self.handler, self.model = device.handler, device.model
        self.handler.on_ready = lambda queue: None
        self.handler.on_config_change = lambda: None
        self.pages = GuestPages(_PAGES * PAGE, holder="net")
        self.pages.private.add(_PRIVATE)
        self.core = VirtioCore(device.model)
        features = int(Feature.VERSION_1 | Feature.INDIRECT) | self.model.features & choice
        self.core.write_status(3)
        for word in (0, 1):
            self.core.acknowledge(word, features >> 32 * word & 0xFFFF_FFFF)
        self.core.write_status(11)
        self.is_running = bool(self.core.status & 8)
        self.drivers: dict[int, SplitDriver] = {}
        leases: Any = self.pages
        self.workers = [
            QueueWorker(number, self.core, device.handler, leases, threading.Lock(), name="net")
            for number in (_RX, _TX, _CONTROL)
        ]
        for number in (_RX, _TX, _CONTROL):
            place = Place(
                _SIZE, 3 * number * PAGE, (3 * number + 1) * PAGE, (3 * number + 2) * PAGE
            )
            self.drivers[number] = SplitDriver(self.pages.bytes, place, events=False)
            queue = self.core.queue(number)
            assert queue is not None
            queue.set_size(_SIZE)
            for part in range(3):
                queue.set_address(part, place[1 + part])
            self.core.enable(number)
        self.core.write_status(15)

    def add(self, queue: int, elements: list[Element], *, by_table: bool) -> None:
        table = 50 * PAGE + 256 * self.drivers[queue].index % (8 * PAGE) if by_table else None
        try:
            self.drivers[queue].add([one for one in elements if one.length], table)
        except (FullError, IndexError, UnboundLocalError):
            return

    async def serve(self) -> None:
        for pair in self.handler.pairs:
            pair.has_frame = pair.has_room = True
        for worker in self.workers:
            for _ in range(4):
                if not await worker.serve_batch():
                    break
        assert self.pages.leased == 0

    def check(self) -> None:
        for line in self.wire.lines:
            for sent in line.sent:
                header, size = parse_header(sent[:HEADER_SIZE]), len(sent) - HEADER_SIZE
                assert 14 <= size <= (MOST_FRAME if header.kind else 1518)
                assert header.flags in (0, 1)
                assert not header.kind or (header.flags and header.segment)
                assert not header.flags or header.start + header.offset + 2 <= size
        assert isinstance(self.model.save(), SavedNet)
        assert len(self.model.config()) == 12


async def _try(data: bytes) -> None:
    choice = int.from_bytes(data[:8], "little")
    card = _Card(choice)
    if not card.is_running:
        return
    at = 8
    while at + 4 <= len(data):
        action, first, second, third = data[at : at + 4]
        at += 4
        size, place = _SIZES[first % len(_SIZES)], PAGE * (second & 7) + (second >> 3)
        if action % 6 == 0:
            gpa = _PRIVATE if third & 0x80 else _WRITTEN + place
            pieces = [Element(gpa, size, writable=True)] * (1 + third % 2)
            pieces += [Element(_READ, 4, writable=False)] * (third & 0x40 > 0)
            card.add(_RX, pieces[::-1] if third & 0x20 else pieces, by_table=bool(third & 0x10))
        elif action % 6 == 1:
            header, at = data[at : at + HEADER_SIZE], at + HEADER_SIZE
            card.pages.put(_READ + place, header + _MAC + b"\2peer0\x08\0")
            cut = min(third & 0x1F, size)
            pieces = [
                Element(_READ + place, cut, writable=False),
                Element(_READ + place + cut, size - cut, writable=bool(third & 0x80)),
            ]
            card.add(_TX, pieces, by_table=bool(third & 0x40))
        elif action % 6 == 2:
            command, at = data[at : at + third], at + third
            card.pages.put(_READ, command)
            pieces = [
                Element(_READ, len(command), writable=False), Element(_WRITTEN, 1, writable=True)
            ]  # fmt: skip
            card.add(_CONTROL, pieces, by_table=False)
        elif action % 6 == 3:
            frame, at = data[at : at + HEADER_SIZE + 18], at + HEADER_SIZE + 18
            card.wire.lines[second & 1].waiting.append((frame + bytes(size))[: HEADER_SIZE + size])
        elif action % 6 == 4:
            gpa = 3 * PAGE * (_RX, _TX, _CONTROL)[third % 3] + first
            card.pages.put(gpa, bytes([second]))
        await card.serve()
        card.check()


def one(data: bytes) -> None:
    """Whatever driver and network do, what reaches the wire is no lie, and nothing stays leased."""
    trio.run(_try, data)


def _step(action: int, first: int, second: int, third: int, rest: bytes = b"") -> bytes:
    return bytes([action, first, second, third]) + rest


_ALL = b"\xff" * 8
_TSO = FrameHeader(1, 1, 54, 100, 34, 16).encoded()
_TO_CARD = _MAC + b"\2peer0\x08\0" + bytes(4)
TARGET = Target(
    one,
    [
        _ALL + _step(0, 8, 0, 0) + _step(3, 7, 0, 0, bytes(12) + _TO_CARD)
        + _step(1, 9, 0, 12, _TSO),
        _ALL + _step(3, 10, 0, 0, bytes(12) + _TO_CARD) + b"".join(
            _step(0, 9, number, 0x10) for number in range(6)
        ),
        _ALL + _step(2, 0, 0, 3, b"\0\0\0") + _step(2, 0, 0, 4, b"\4\0\2\0")
        + _step(2, 0, 0, 10, b"\1\0" + struct.pack("<II", 0, 0)) + _step(0, 8, 0, 0)
        + _step(3, 7, 0, 0, bytes(12) + _TO_CARD) + _step(4, 2, 200, 0),
        bytes(8) + _step(1, 6, 1, 12, bytes(12)) + _step(0, 9, 0, 1) + _step(0, 8, 0, 0x80),
    ],
    most=1 << 11,
)  # fmt: skip
INSTRUMENTED = (
    "pyvmm.devices.virtio.net_header",
    "pyvmm.devices.virtio.net_control",
    "pyvmm.devices.virtio.net_filter",
    "pyvmm.machine.virtio.net",
    "pyvmm.machine.virtio.net_pair",
    "pyvmm.machine.virtio.queue_worker",
)
