# SPDX-License-Identifier: MIT
"""Frames between a card's queue and its wire: time of the processor, by the engine and by Python.

Here is the driver's side, which makes the same chains available again and again.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import ExitStack
from typing import Final

import trio

from benchmarks.figures import Sample, at_most
from benchmarks.measure import Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import DeviceStatus, Feature
from pyvmm.devices.virtio.rings import QueuePosition
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.queue_engine import SplitQueue, Stopped
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.hardware import DescriptorNet, NetCard
from pyvmm.machine.memory_sides import SharedMemory
from pyvmm.machine.virtio.net import NetHandler, net_device
from pyvmm.machine.virtio.queue_worker import QueueWorker
from pyvmm.memory.layout import MIB, GpaRange
from pyvmm.memory.regions import MemoryRegion
from pyvmm.net.frames import HEADER_SIZE, NO_OFFLOADS, Offload
from pyvmm.net.taps import TapQueue

NAME = "net_queue"
TITLE = "frames between a card's queue and its wire, without a guest"
RUNS = 9

ROUNDS: Final = 300
FRAMES: Final = 64
"""Frames of a round: as many chains as one lease of the ring is for."""
_SIZE: Final = 128
_DESCRIPTORS, _DRIVER, _DEVICE, _BUFFERS = 0x1000, 0x2000, 0x3000, 0x10000
_STRIDE: Final = 0x800
_FRAME: Final = 1514
_WRITE: Final = 2
_RECEIVES, _SENDS = 0, 1


def run(effort: Effort, step: Step) -> Result:
    """Measure both."""
    rounds = effort.scaled(ROUNDS)
    subjects = (
        Subject("engine", "net_queue.c, without Python", lambda: _both(rounds, by_engine=True)),
        Subject("Python", "QueueWorker and NetPair", lambda: _both(rounds, by_engine=False)),
    )
    samples = take_turns(subjects, effort, step)
    comparisons = [
        Comparison("send_us", "engine", "Python", at_most(0.2)),
        Comparison("receive_us", "engine", "Python", at_most(0.2)),
    ]
    return Result(NAME, TITLE, subjects, samples, comparisons)


def _both(rounds: int, *, by_engine: bool) -> Sample:
    return {
        name: _Queue(queue).measured(rounds, by_engine=by_engine)
        for name, queue in (("send_us", _SENDS), ("receive_us", _RECEIVES))
    }


class _Wire:
    """A wire of packets on a socket: read and written as a tap is."""

    mtu = None
    offloads = NO_OFFLOADS

    def __init__(self, fd: int) -> None:
        self.queues = (TapQueue(fd),)
        self.descriptors = (fd,)

    def receive_with(self, wanted: Offload) -> None:
        """Packets need nothing done."""

    def use_queues(self, count: int) -> None:
        """There is one."""


class _Queue:
    """A queue of a card, and the other end of its wire."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._position = 0

    def measured(self, rounds: int, *, by_engine: bool) -> float:
        """Microseconds of this thread for each frame."""
        with ExitStack() as stack:
            system = stack.enter_context(System())
            vm = stack.enter_context(system.create_vm())
            self._memory = GuestMemory(vm)
            region = MemoryRegion(0, GpaRange(0, 4 * MIB), can_be_private=False, what="RAM")
            shared = stack.enter_context(SharedMemory(system, vm, region))
            stack.callback(self._memory.close)
            self._memory.regions.add(shared.sides)
            ours, theirs = (
                stack.enter_context(end)
                for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            )
            ours.setblocking(False)
            theirs.setblocking(False)
            self._peer = theirs
            made = net_device(NetCard(DescriptorNet(())), _Wire(ours.fileno()), 0)
            assert isinstance(made.handler, NetHandler)
            self._handler = made.handler
            self._core = VirtioCore(made.model)
            self._set_up()
            serve = self._by_engine if by_engine else self._by_python
            return serve(rounds, stack) / (rounds * FRAMES) * 1e6

    def _set_up(self) -> None:
        core, features = self._core, Feature.VERSION_1
        for status in (DeviceStatus.ACKNOWLEDGE, DeviceStatus.DRIVER):
            core.write_status(core.status | status)
        for word in range(2):
            core.acknowledge(word, features >> 32 * word & 0xFFFF_FFFF)
        core.write_status(core.status | DeviceStatus.FEATURES_OK)
        queue = core.queue(self._number)
        assert queue is not None
        queue.set_size(_SIZE)
        for part, gpa in enumerate((_DESCRIPTORS, _DRIVER, _DEVICE)):
            queue.set_address(part, gpa)
        core.enable(self._number)
        core.write_status(core.status | DeviceStatus.DRIVER_OK)
        kind = _WRITE if self._number == _RECEIVES else 0
        length = HEADER_SIZE + _FRAME
        for number in range(_SIZE):
            gpa = _BUFFERS + _STRIDE * number
            self._put(_DESCRIPTORS + 16 * number, struct.pack("<QIHH", gpa, length, kind, 0))
            self._put(_DRIVER + 4 + 2 * number, struct.pack("<H", number))

    def _put(self, gpa: int, content: bytes) -> None:
        with self._memory.lease(((gpa, len(content)),), writable=True) as lease:
            lease.views[0][:] = content

    def _offer(self) -> None:
        """Have chains, and frames for them where they are to be filled."""
        self._position += FRAMES
        self._put(_DRIVER + 2, struct.pack("<H", self._position & 0xFFFF))
        for _ in range(FRAMES if self._number == _RECEIVES else 0):
            self._peer.send(bytes(HEADER_SIZE + _FRAME))

    def _take(self) -> None:
        """See that all were moved."""
        for _ in range(FRAMES if self._number == _SENDS else 0):
            assert len(self._peer.recv(1 << 16)) == HEADER_SIZE + _FRAME

    def _by_engine(self, rounds: int, stack: ExitStack) -> float:
        bell, told = (stack.enter_context(Eventfd()) for _ in range(2))
        work = self._handler.plain_work(self._number)
        assert work is not None
        ring = SplitQueue(
            _SIZE, _DESCRIPTORS, _DRIVER, _DEVICE, indirect=False, event_index=False,
            available=0, used=0, doorbell=bell.fileno(), interrupt=told.fileno(),
        )  # fmt: skip
        engine = work.made(self._memory.leases, ring)
        assert engine is not None
        stack.enter_context(engine)
        seconds = 0.0
        for _ in range(rounds):
            self._offer()
            started = time.thread_time()
            stopped = engine.run(waits=False)
            seconds += time.thread_time() - started
            assert stopped is Stopped.IDLE
            self._take()
        assert engine.counts.requests == rounds * FRAMES
        return seconds

    def _by_python(self, rounds: int, stack: ExitStack) -> float:
        del stack
        handler = self._handler
        handler.on_ready = lambda _queue: None
        self._core.on_interrupt = lambda _queue: None
        worker = QueueWorker(
            self._number, self._core, handler, self._memory.leases, threading.Lock(), name="card"
        )

        async def main() -> float:
            seconds = 0.0
            for _ in range(rounds):
                self._offer()
                started = time.thread_time()
                handler.pairs[0].has_frame = True
                while await worker.serve_batch():
                    pass
                seconds += time.thread_time() - started
                self._take()
            return seconds

        seconds = trio.run(main)
        end = rounds * FRAMES & 0xFFFF
        assert self._core.position(self._number) == QueuePosition(end, end)
        return seconds
