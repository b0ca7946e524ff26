# SPDX-License-Identifier: MIT
"""A virtio block device: what is done with its requests, on whatever store there is.

::

    MachineConfig(image, devices=DeviceChoice(added=(partial(place_block, store),)))
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from pyvmm.devices.placement import PlacedDevice
from pyvmm.devices.virtio.block import BlockModel, BlockRequest, RequestKind, Status, parse
from pyvmm.hosts.queue_engine import BlockQueue
from pyvmm.machine.block_store import BlockStore
from pyvmm.machine.disks.failures import FailurePolicy
from pyvmm.machine.disks.raw import RawStore
from pyvmm.machine.events import DiskFailed
from pyvmm.machine.virtio.mmio import FIRST_GSI, place_mmio
from pyvmm.machine.virtio.plain_disk import PlainDisk
from pyvmm.machine.virtio.queue_handler import BoundChain, NotNowError, VirtioDevice
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import VIRTIO_GPA

_NAME = "virtio block"


def block_device(
    store: BlockStore,
    name: str = _NAME,
    *,
    serial: str | None = None,
    read_only: bool = False,
    queues: int = 1,
    policy: FailurePolicy | None = None,
) -> VirtioDevice:
    """Make a block device of `store`'s sectors; without a `serial` it is the name."""
    model = BlockModel(store.size, read_only=read_only, queues=queues)
    handler = BlockHandler(model, store, (name if serial is None else serial).encode(), policy)
    return VirtioDevice(name, model, handler)


def place_block(
    store: BlockStore,
    wiring: Wiring,
    *,
    gpa: int = VIRTIO_GPA,
    gsi: int = FIRST_GSI,
    name: str = _NAME,
) -> PlacedDevice:
    """Place a block device of `store`'s sectors over MMIO, for `DeviceChoice.added`.

    Raises `UsageError` as `place_mmio` does.
    """
    return place_mmio(block_device(store, name), wiring, gpa=gpa, gsi=gsi)


class BlockHandler:
    """The work of a block device's queues. `serial` is what GET_ID answers."""

    on_ready: Callable[[int], None]
    on_config_change: Callable[[], None]

    def __init__(
        self,
        model: BlockModel,
        store: BlockStore,
        serial: bytes,
        policy: FailurePolicy | None = None,
    ) -> None:
        """Without a `policy` the guest gets an I/O error, and nobody else hears of it."""
        self._policy = policy
        self._failure: DiskFailed | None = None
        self._failed = trio.Event()
        self._model = model
        self._store = store
        self._serial = serial

    def plain_work(self, queue: int) -> PlainDisk | None:  # noqa: ARG002
        """The disk, where an engine can do plain requests of it: that of a file."""
        model, store = self._model, self._store
        if not isinstance(store, RawStore):
            return None
        return PlainDisk(
            BlockQueue(store.fd, model.capacity, model.read_only, flushes=not store.flush_error),
            is_durable=lambda: not model.is_writeback,
            durable_changes=model.durable_changes,
            flush_failed=self._flush_failed,
        )

    def _flush_failed(self, number: int) -> None:
        """An engine's flush has failed; no other one's may succeed."""
        if isinstance(self._store, RawStore):
            self._store.flush_failed(number)
            for queue in range(len(self._model.queue_sizes)):
                self.on_ready(queue)

    def is_ready(self, queue: int) -> bool:  # noqa: ARG002
        """Be so unless the machine is paused for a failure."""
        return self._failure is None

    async def serve(self) -> None:
        """Have the machine paused for a failure, and go on when it is resumed."""
        while True:
            await self._failed.wait()
            self._failed = trio.Event()
            if self._policy is not None and self._failure is not None:
                await self._policy.disks.stop(self._failure)
            self._failure = None
            for queue in range(len(self._model.queue_sizes)):
                self.on_ready(queue)

    async def handle(self, queue: int, chain: BoundChain) -> int:  # noqa: ARG002
        """Do a request. Return the bytes written. Raises `ValueError` for what is none, and
        `NotNowError` for what has failed and is to be tried again.
        """
        model = self._model
        request = parse(chain.readable, chain.writable, model.capacity, read_only=model.read_only)
        if request is None:
            raise ValueError("it has no room for a header or a status")
        if request.refusal is not None:
            return request.finish(request.refusal)
        try:
            await self._perform(request)
        except OSError as error:
            self._tell(request, error)
            return request.finish(Status.IO_ERROR)
        return request.finish(Status.OK)

    def _tell(self, request: BlockRequest, error: OSError) -> None:
        """Tell of a failure. Raises `NotNowError` where the machine is to be paused for it."""
        if self._policy is None:
            return
        operation = "read" if request.kind is RequestKind.IN else "write"
        failure = self._policy.failure(operation, error)
        if not failure.stops:
            self._policy.disks.tell(failure)
            return
        self._failure = self._failure or failure
        self._failed.set()
        raise NotNowError from error

    async def _perform(self, request: BlockRequest) -> None:
        """Do what a request asks for. Raises `OSError`."""
        kind, store = request.kind, self._store
        if kind is RequestKind.IN:
            await store.read(request.offset, request.data)
            return
        if kind is RequestKind.GET_ID:
            request.put(self._serial)
            return
        if kind is RequestKind.OUT:
            await store.write(request.offset, request.data)
        for offset, length, unmap in request.segments:
            if not length:
                continue
            if kind is RequestKind.DISCARD:
                await store.discard(offset, length)
            else:
                await store.write_zeroes(offset, length, unmap=unmap)
        if kind is RequestKind.FLUSH or not self._model.is_writeback:
            await store.flush()
