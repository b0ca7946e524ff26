# SPDX-License-Identifier: MIT
"""Workers whose queue is served by a host's engine, on a thread of its own and without Python.

The engine does the plain requests (`hosts.queue_engine`), and Python, chain by chain, what is left.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple, Protocol, runtime_checkable

import trio

from pyvmm.devices.protocols import Guard
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.rings import BrokenRingError, QueueLayout, QueuePosition
from pyvmm.errors import SystemCallError
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.interrupts import Doorbell
from pyvmm.hosts.queue_engine import BlockQueue, QueueEngine, Stopped
from pyvmm.machine.leases import Leases
from pyvmm.machine.virtio.queue_handler import QueueHandler
from pyvmm.machine.virtio.queue_worker import BATCH, LaterError, QueueWorker


class PlainDisk(NamedTuple):
    """A disk of which an engine may do the plain requests: a file's descriptor, and so on."""

    file: int
    capacity: int
    read_only: bool
    durable: bool
    """Writes are done only when they outlive a crash of the host."""
    flushes: bool
    """An engine may flush it, too."""
    flush_failed: Callable[[int], None]
    """Is told the errno of a flush of an engine's that has failed."""


@runtime_checkable
class EngineServed(Protocol):
    """A handler, some of whose requests an engine may do.

    `durable_changes` are functions to be called, under the guard, when `PlainDisk.durable` changes.
    """

    durable_changes: list[Callable[[bool], None]]

    def plain_disk(self) -> PlainDisk | None:
        """The disk; None, always, where all of its requests are the handler's."""
        ...


@runtime_checkable
class InterruptsByEventfd(Protocol):
    """A transport that can have an interrupt sent by an eventfd."""

    def interrupt_eventfd(self, queue: int) -> int | None:
        """The eventfd of a queue's interrupt, under the guard; None: the core's way."""
        ...


class EngineWorker(QueueWorker):
    """Serves a queue with an engine where it is a split ring that has a doorbell."""

    def __init__(
        self,
        number: int,
        core: VirtioCore,
        handler: QueueHandler,
        leases: Leases,
        guard: Guard,
        *,
        name: str,
        bell: Callable[[], Doorbell | None],
        interrupt: Callable[[], int | None],
    ) -> None:
        super().__init__(number, core, handler, leases, guard, name=name)
        self._served = handler if isinstance(handler, EngineServed) else None
        self._bell = bell
        self._interrupt = interrupt
        self._engine: QueueEngine | None = None
        self._restarts = self._restarts_made_of = 0
        self._limiter = trio.CapacityLimiter(1)

    def takes(self, layout: QueueLayout | None) -> bool:
        """Tell whether an engine waits for the doorbell of such a queue, and nobody else may."""
        if layout is None or Feature.PACKED in layout.features:
            return False
        return self._served is not None and self._served.plain_disk() is not None

    def restart(self) -> None:
        """Have what the engine waits for, and interrupts by, looked at again. Under the guard."""
        self._restarts += 1
        if self._engine is not None:
            self._engine.kick()

    def wake(self) -> None:
        """Look at the queue, whoever serves it."""
        super().wake()
        if self._engine is not None:
            self._engine.kick()

    async def serve(self) -> None:
        """Take what there is until cancelled."""
        with Eventfd() as told:
            self._told = told
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, told)
                await super().serve()

    async def _pass_on(self, told: Eventfd) -> None:
        """Interrupt where the transport has no eventfd of its own for that."""
        while True:
            await trio.lowlevel.wait_readable(told.fileno())
            if told.drain():
                with self._guard:
                    self._core.interrupt(self._number)

    async def _serve_ring(
        self, layout: QueueLayout, position: QueuePosition, most: int = BATCH
    ) -> bool:
        if not self.takes(layout):
            return await super()._serve_ring(layout, position, most)
        if self.was_restored:
            await super()._serve_ring(layout, position, most)
            return True
        with ExitStack() as stack:
            engine = self._made(layout, position, stack)
            if engine is None:
                return await super()._serve_ring(layout, position, most)
            stopped = await self._run(engine)
            position = QueuePosition(*engine.position)
        match stopped:
            case Stopped.ODD_CHAIN:
                await super()._serve_ring(layout, position, 1)
                return True
            case Stopped.BROKEN:
                raise BrokenRingError("serve a virtqueue", "it cannot be understood, or reached")
            case Stopped.VACATING:
                raise LaterError
            case _:
                return True

    def _made(
        self, layout: QueueLayout, position: QueuePosition, stack: ExitStack
    ) -> QueueEngine | None:
        """Make an engine. Its descriptors are its own: a transport may close those it has."""
        with self._guard:
            disk = None if self._served is None else self._served.plain_disk()
            bell, interrupt = self._bell(), self._interrupt()
            self._restarts_made_of = self._restarts
            if bell is None or disk is None or self._core.epoch != self._epoch:
                return None
            copies = [
                _copy(fd, stack)
                for fd in (bell.fileno(), self._told.fileno() if interrupt is None else interrupt)
            ]
        place = layout.place
        made = self._leases.block_engine(
            BlockQueue(
                *place,
                indirect=Feature.INDIRECT in layout.features,
                event_index=Feature.EVENT_INDEX in layout.features,
                available=position.available,
                used=position.used,
                file=disk.file,
                doorbell=copies[0],
                interrupt=copies[1],
                capacity=disk.capacity,
                read_only=disk.read_only,
                flushes=disk.flushes,
            )
        )
        return None if made is None else stack.enter_context(made)

    async def _run(self, engine: QueueEngine) -> Stopped:
        """Run the engine on a thread until it stops, or is stopped when this is cancelled."""
        with self._guard:
            if self._core.epoch == self._epoch:
                self._core.follow(self._number, lambda: QueuePosition(*engine.position))
            self._engine = engine
            if self._restarts != self._restarts_made_of:
                # What it waits for or interrupts by has changed since: it is made anew.
                engine.kick()
            self._durable(engine, follow=True)
        try:
            return await self._on_thread(engine)
        finally:
            with self._guard:
                self._engine = None
                self._durable(engine, follow=False)
                if self._core.epoch == self._epoch:
                    self._core.follow(self._number, None)
                    self._core.move(self._number, QueuePosition(*engine.position))
            self._pass_flush_error(engine)
            # Somebody may have waited for a lease that the engine has given back.
            self._leases.interrupt()

    def _durable(self, engine: QueueEngine, *, follow: bool) -> None:
        served = self._served
        disk = None if served is None else served.plain_disk()
        if served is None or disk is None:
            return
        if follow:
            engine.set_durable(disk.durable)
            served.durable_changes.append(engine.set_durable)
        else:
            served.durable_changes.remove(engine.set_durable)

    def _pass_flush_error(self, engine: QueueEngine) -> None:
        disk = None if self._served is None else self._served.plain_disk()
        if disk is not None and engine.flush_error:
            disk.flush_failed(engine.flush_error)

    async def _on_thread(self, engine: QueueEngine) -> Stopped:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_kick_at_end, engine)
            stopped = await trio.to_thread.run_sync(engine.run, limiter=self._limiter)
            nursery.cancel_scope.cancel()
        return stopped


async def _kick_at_end(engine: QueueEngine) -> None:
    try:
        await trio.sleep_forever()
    finally:
        engine.kick()


def _copy(fd: int, stack: ExitStack) -> int:
    """Copy a descriptor, which `stack` closes."""
    try:
        copy = os.dup(fd)
    except OSError as error:
        raise SystemCallError(
            "have a queue of a disk served by the host's engine",
            error.errno or 0,
            f"a descriptor cannot be copied: {error.strerror}",
            "allow this process more open files (ulimit -n)",
        ) from error
    stack.callback(os.close, copy)
    return copy
