# SPDX-License-Identifier: MIT
"""A virtio block device over MMIO: its place in a machine, and the task that does its work.

::

    MachineConfig(image, devices=DeviceChoice(added=(partial(place_block, store),)))

The guest's notification is a doorbell, so it costs no exit to Python; the task takes one chain
after another, leases ring and buffers, and interrupts by a level line that the guest's end of
interrupt lowers (resampling).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

import trio

from pyvmm.devices.placement import PlacedDevice, Space, Window
from pyvmm.devices.protocols import Guard
from pyvmm.devices.virtio.block import BlockFeature, BlockModel
from pyvmm.devices.virtio.mmio import LENGTH, WIDTH, Interrupt, Queue, Register, VirtioMmio
from pyvmm.devices.virtio.split_ring import BadChainError, BrokenRingError, Chain, SplitRing
from pyvmm.errors import UsageError
from pyvmm.hosts.held_ranges import LeaseRefusal
from pyvmm.hosts.interrupts import Doorbell, DoorbellPlace, InterruptLine, Trigger
from pyvmm.machine.block_store import BlockStore
from pyvmm.machine.leases import Lease, LeaseRefusedError, Leases, Range
from pyvmm.machine.virtio.block import BlockHandler
from pyvmm.machine.virtio.queue_handler import BoundChain
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import VIRTIO_GPA

BLOCK_GSI = 5
HID = "LNRO0005"
"""ACPI hardware ID of a virtio device over MMIO (Linux, drivers/virtio/virtio_mmio.c)."""
RESET_PATIENCE = 1.0
"""Seconds that the driver's reset waits for what is under way; afterwards its status tells."""
VACATING_PAUSE = 0.001
"""Seconds between two tries to lease memory that is about to be converted, reset or saved."""


class _VacatingError(Exception):
    """Memory is about to be converted, reset or saved: nothing was done, try again."""


def place_block(
    store: BlockStore,
    wiring: Wiring,
    *,
    gpa: int = VIRTIO_GPA,
    gsi: int = BLOCK_GSI,
    name: str = "virtio block",
    serial: str | None = None,
    read_only: bool = False,
) -> PlacedDevice:
    """Place a block device of `store`'s sectors, for `DeviceChoice.added`.

    Without a `serial` it is the name.

    Raises `UsageError` on a machine without interrupt controllers, and where GSI or doorbell are
    another device's.
    """
    if wiring.interrupts is None or not wiring.has_controllers or wiring.leases is None:
        raise UsageError(
            f"give a machine the device {name}",
            "it interrupts, and there are no interrupt controllers",
            "leave --irqchip off out",
        )
    model = BlockModel(store.size, read_only=read_only)
    features = model.features & ~BlockFeature.CONFIG_WCE
    device = VirtioMmio(model.kind, features, model.config(), model.queue_sizes)
    port = VirtioPort(device)
    # Queue 0, and no other: what notifies none is the registers' business.
    place = DoorbellPlace(gpa + Register.QUEUE_NOTIFY, 4, is_port=False, value=0)
    parts = BlockParts(
        name,
        BlockHandler(model, store, (name if serial is None else serial).encode()),
        wiring.leases,
        wiring.interrupts.doorbell(place, name),
        wiring.interrupts.line(gsi, Trigger.LEVEL, name, resample=True),
    )
    # A driver's reset waits: so the port takes the guard by itself, and lets go of it then.
    window = Window(Space.MMIO, gpa, LENGTH, port, WIDTH, serialised=False)

    def backend(guard: Guard) -> BlockTask:
        port.guard = guard
        return BlockTask(device, parts, guard, port.ended)

    return PlacedDevice(name, device, (window,), gsis=(gsi,), backend=backend, hid=HID)


class BlockParts(NamedTuple):
    """Parts of a block device beside its registers. The machine owns doorbell and line."""

    name: str
    handler: BlockHandler
    leases: Leases
    bell: Doorbell
    line: InterruptLine


class VirtioPort:
    """The registers as the guest's accesses get to them, each under the guard.

    A driver's reset does not return before the task has ended what is under way, since Linux's
    driver does not look at the status for that (``drivers/virtio/virtio_mmio.c``, vm_reset).
    """

    def __init__(self, device: VirtioMmio) -> None:
        self._device = device
        self.guard: Guard = threading.Lock()
        self.ended = threading.Event()

    def read(self, offset: int, size: int) -> int:
        """Read a register."""
        with self.guard:
            return self._device.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register; the status waits for the end of a reset."""
        with self.guard:
            self._device.write(offset, size, value)
            waits = offset == Register.STATUS and self._device.is_resetting
            if waits:
                self.ended.clear()
        if waits:
            self.ended.wait(RESET_PATIENCE)


class BlockTask:
    """Serves a block device's queue, one chain after the other, in the machine's nursery."""

    def __init__(
        self,
        device: VirtioMmio,
        parts: BlockParts,
        guard: Guard,
        ended: threading.Event,
    ) -> None:
        self._device = device
        self._name, self._handler, self._leases, self._bell, self._line = parts
        self._guard = guard
        self._ended = ended
        self._raised = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._wanted = trio.Event()
        self._scope = trio.CancelScope()
        self._epoch = device.epoch
        device.on_change = self._tell
        device.on_interrupt = self._raise
        device.on_reset = self._let_go
        device.on_restore = self._take_up

    async def serve(self) -> None:
        """Work for the guest until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_rings)
            nursery.start_soon(self._take_ends)
            while True:
                # Before the look: what comes after it is not to be slept through.
                self._wanted = trio.Event()
                while await self._serve_next():
                    await trio.lowlevel.checkpoint()
                await self._wanted.wait()

    async def _take_rings(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._bell.fileno())
            self._bell.drain()
            self._wanted.set()

    async def _take_ends(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._line.fileno())
            with self._guard:
                if self._line.drain():
                    self._raised = False
                    self._raise()

    # -- from the device, under its guard and from any thread --

    def _tell(self) -> None:
        self._soon(self._set_wanted)

    def _raise(self) -> None:
        """Raise the line if there is a reason and the guest has not yet to lower it."""
        if self._device.interrupt_status and not self._raised:
            self._raised = True
            self._line.raise_()

    def _let_go(self) -> None:
        if self._raised:
            self._line.lower()
            self._raised = False
        self._soon(self._cancel_stale)

    def _take_up(self) -> None:
        if self._raised and not self._device.interrupt_status:
            self._line.lower()
        # Raised anew even where it is up: of that the controllers that are restored know nothing.
        self._raised = False
        self._raise()
        self._tell()

    def _soon(self, function: Callable[[], None]) -> None:
        # Before `serve` has begun its first look is still to come.
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(function, idempotent=True)

    def _set_wanted(self) -> None:
        self._wanted.set()

    def _cancel_stale(self) -> None:
        if self._epoch != self._device.epoch:
            self._scope.cancel()

    # -- the work --

    async def _serve_next(self) -> bool:
        """Serve a chain, if there is one. Return True if there may be another."""
        try:
            with self._guard:
                queue = self._device.queue(0)
                if queue is None:
                    return False
                self._epoch = self._device.begin()
                self._scope = trio.CancelScope()
            try:
                with self._scope:
                    return await self._serve_queue(queue)
                return True
            finally:
                with self._guard:
                    self._device.end()
                    self._ended.set()
        except _VacatingError:
            await trio.sleep(VACATING_PAUSE)
            return True
        except BrokenRingError:
            with self._guard:
                if self._device.epoch == self._epoch:
                    self._device.fail()
            return False

    async def _serve_queue(self, queue: Queue) -> bool:
        with ExitStack() as stack:
            try:
                views = stack.enter_context(self._lease(queue.place.ranges, writable=True)).views
            except LeaseRefusedError as refused:
                raise BrokenRingError(refused.attempt, refused.cause) from refused
            ring = SplitRing(queue.place.size, *views)
            try:
                chain = ring.next(queue.available)
                if chain is None:
                    return False
                # Held until the used index is written.
                written = await self._serve_chain(chain, stack)
            except BadChainError as bad:
                self._give_back(queue, ring, bad.head, 0)
            else:
                self._give_back(queue, ring, chain.head, written)
        return True

    async def _serve_chain(self, chain: Chain, stack: ExitStack) -> int:
        """Do what a chain asks for. Return the bytes written. Raises `BadChainError`."""
        views: list[Sequence[memoryview]] = []
        for ranges, is_writable in ((chain.readable, False), (chain.writable, True)):
            try:
                if ranges:
                    lease = stack.enter_context(self._lease(ranges, writable=is_writable))
                views.append(lease.views if ranges else ())
            except LeaseRefusedError as refused:
                raise BadChainError(chain.head, refused.cause) from refused
        readable, writable = views
        try:
            return await self._handler.handle(0, BoundChain(tuple(readable), tuple(writable)))
        except ValueError as error:
            raise BadChainError(chain.head, str(error)) from error

    def _give_back(self, queue: Queue, ring: SplitRing, head: int, written: int) -> None:
        with self._guard:
            if self._device.epoch != self._epoch:
                return
            ring.put_used(queue.used, head, written)
            queue.used = (queue.used + 1) & 0xFFFF
            queue.available = (queue.available + 1) & 0xFFFF
        # To let go of a lock and take one is the memory barrier that belongs between the two.
        with self._guard:
            if self._device.epoch == self._epoch and ring.wants_interrupt:
                self._device.interrupt(Interrupt.USED_BUFFER)

    def _lease(self, ranges: Sequence[Range], *, writable: bool) -> Lease:
        try:
            return self._leases.lease(ranges, writable=writable, holder=self._name)
        except LeaseRefusedError as refused:
            if refused.reason is LeaseRefusal.CONVERTING:
                raise _VacatingError from None
            raise
