# SPDX-License-Identifier: MIT
"""The task of a block device, over memory of which a part is private and with stores that fail."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.mmio import Register, VirtioMmio
from pyvmm.devices.virtio.rings import QueuePlace
from pyvmm.hosts.held_ranges import LeaseRefusal
from pyvmm.machine.block_store import MemoryStore
from pyvmm.machine.leases import LeaseRefusedError
from pyvmm.machine.virtio import mmio
from pyvmm.machine.virtio.block import block_device
from pyvmm.machine.virtio.mmio import MmioPort, MmioSide
from pyvmm.machine.virtio.queue_server import QueueServer
from tests.devices.virtio.test_mmio import DRIVER_OK, NEEDS_RESET, Driver
from tests.machine.virtio.guest_pages import GuestPages

PLACE = QueuePlace(4, 0x1000, 0x2000, 0x3000)
HEADER, DATA, STATUS = 0x4000, 0x5000, 0x6000
READ, UNTOUCHED = 0, 0xA5


class Disk:
    """A block device whose driver has made one request, and what has become of it."""

    def __init__(self, store: MemoryStore, kind: int = READ) -> None:
        self.memory = GuestPages()
        made = block_device(store, "disk")
        core = VirtioCore(made.model)
        driver = Driver()
        driver.core, driver.device = core, VirtioMmio(core)
        self.device = driver.device
        leases: Any = self.memory
        self.server = QueueServer(
            core, made.handler, MmioSide({}), leases, threading.Lock(), name="disk"
        )
        self.driver = driver
        driver.negotiate()
        driver.place(PLACE)
        driver.write(Register.QUEUE_READY, 1)
        driver.write(Register.STATUS, DRIVER_OK)
        self.memory.put(HEADER, struct.pack("<IIQ", kind, 0, 0))
        self.memory.put(STATUS, bytes([UNTOUCHED]))
        for number, descriptor in enumerate(
            ((HEADER, 16, 1, 1), (DATA, 512, 1 | (2 if kind == READ else 0), 2), (STATUS, 1, 2, 0))
        ):
            self.memory.put(PLACE.descriptors + 16 * number, struct.pack("<QIHH", *descriptor))
        self.memory.put(PLACE.driver, struct.pack("<HHH", 0, 1, 0))

    def serve(self) -> None:
        """All that there is to be done."""

        async def main() -> None:
            while await self.server._workers[0].serve_batch():
                pass

        trio.run(main)

    @property
    def used(self) -> tuple[int, int, int]:
        """Index, and head and length of the first entry."""
        index, head, length = struct.unpack_from("<HII", self.memory.bytes, PLACE.device + 2)
        return index, head, length

    @property
    def status(self) -> int:
        return self.memory.bytes[STATUS]


def disk(kind: int = READ) -> Disk:
    return Disk(MemoryStore(bytearray(b"\x5a" * 1024)), kind)


def test_a_request_is_served() -> None:
    made = disk()
    made.serve()
    assert (made.used, made.status) == ((1, 0, 513), 0)
    assert made.memory.bytes[DATA : DATA + 512] == b"\x5a" * 512
    assert made.device.interrupt_status == 1


@pytest.mark.parametrize("private", [HEADER, DATA, STATUS])
@pytest.mark.parametrize("kind", [READ, 1])
def test_a_private_buffer_is_given_back_untouched_and_the_ring_goes_on(
    private: int, kind: int
) -> None:
    made = disk(kind)
    made.memory.private.add(private)
    before = bytes(made.memory.bytes[0x4000:])
    made.serve()
    assert made.used == (1, 0, 0)
    assert made.memory.bytes[0x4000:] == before
    assert made.driver.status == DRIVER_OK
    made.memory.private.clear()
    made.memory.put(PLACE.driver, struct.pack("<HHHH", 0, 2, 0, 0))
    made.serve()
    assert (made.used[0], made.status) == (2, 0)


@pytest.mark.parametrize("private", [PLACE.descriptors, PLACE.driver, PLACE.device])
def test_a_private_ring_needs_a_reset_and_then_there_is_silence(private: int) -> None:
    made = disk()
    made.memory.private.add(private)
    made.serve()
    assert made.driver.status == DRIVER_OK | NEEDS_RESET
    assert made.device.interrupt_status == 2
    made.memory.private.clear()
    made.serve()
    assert (made.used, made.status) == ((0, 0, 0), UNTOUCHED)


def test_a_ring_that_is_ahead_of_itself_needs_a_reset() -> None:
    made = disk()
    made.memory.put(PLACE.driver, struct.pack("<HH", 0, 5))
    made.serve()
    assert made.driver.status == DRIVER_OK | NEEDS_RESET
    assert made.status == UNTOUCHED


def test_a_store_that_fails_is_an_error_of_the_guest_s_and_no_end() -> None:
    class Failing(MemoryStore):
        async def read(self, offset: int, into: Sequence[memoryview]) -> None:
            raise OSError(5, "a bad sector")

    made = Disk(Failing(bytearray(1024)))
    made.serve()
    assert (made.used, made.status) == ((1, 0, 0), 1)


def test_a_driver_that_wants_no_interrupt_gets_none() -> None:
    made = disk()
    made.memory.put(PLACE.driver, b"\x01")
    made.serve()
    assert made.used == (1, 0, 513)
    assert made.device.interrupt_status == 0


def test_memory_that_is_being_vacated_is_tried_again() -> None:
    made = disk()
    lease = made.memory.lease
    refusals = [LeaseRefusal.CONVERTING] * 3

    def refusing(ranges: Any, **more: Any) -> Any:
        if refusals:
            raise LeaseRefusedError("lease", "it is being saved", refusals.pop(), 0)
        return lease(ranges, **more)

    made.memory.lease = refusing  # type: ignore[method-assign]
    made.serve()
    assert (made.used, made.status) == ((1, 0, 513), 0)


def test_a_reset_waits_no_longer_than_it_has_patience_and_the_status_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mmio, "RESET_PATIENCE", 0.01)
    made = disk()
    port = MmioPort(made.device)
    made.driver.core.begin(0)
    port.write(Register.STATUS, 4, 0)
    assert port.read(Register.STATUS, 4) == DRIVER_OK
    made.driver.core.end(0)
    assert port.read(Register.STATUS, 4) == 0


def test_what_is_finished_behind_a_reset_gets_nowhere() -> None:
    class Resetting(MemoryStore):
        async def read(self, offset: int, into: Sequence[memoryview]) -> None:
            made.driver.write(Register.STATUS, 0)
            await super().read(offset, into)

    made = Disk(Resetting(bytearray(1024)))
    made.serve()
    assert made.used == (0, 0, 0)
    assert (made.driver.status, made.device.interrupt_status) == (0, 0)
