# SPDX-License-Identifier: MIT
"""Workers whose queue is served by a host's engine, on a thread of its own and without Python.

The engine does the plain chains (`hosts.queue_engine`), and Python, chain by chain, what is left.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar, runtime_checkable

import trio

from pyvmm.devices.protocols import Guard
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.rings import BrokenRingError, QueueLayout, QueuePosition
from pyvmm.errors import SystemCallError
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.interrupts import Doorbell
from pyvmm.hosts.queue_engine import QueueEngine, SplitQueue, Stopped
from pyvmm.machine.leases import Leases
from pyvmm.machine.virtio.queue_handler import QueueHandler
from pyvmm.machine.virtio.queue_worker import BATCH, LaterError, QueueWorker

EngineT = TypeVar("EngineT", bound=QueueEngine)


class EngineWork(Protocol[EngineT]):
    """Work of a queue's, the plain part of which an engine may do.

    An engine that is run is told of to `begun`, `ended` and `looked_at`, in that order.
    """

    def made(self, leases: Leases, ring: SplitQueue) -> EngineT | None:
        """Make an engine for it; None where the host has none. Raises `SystemCallError`."""
        ...

    def begun(self, engine: EngineT) -> None:
        """The engine is about to run. Under the guard."""
        ...

    def ended(self, engine: EngineT) -> None:
        """The engine has run. Under the guard."""
        ...

    def looked_at(self, engine: EngineT) -> None:
        """The engine has run, and Python is about to go on. In the trio thread, under no guard."""
        ...


@runtime_checkable
class EngineServed(Protocol):
    """A handler, some of whose work an engine may do."""

    def plain_work(self, queue: int) -> EngineWork[Any] | None:
        """The work of a queue as it is now; None: all of it is the handler's. Under the guard.

        Where it changes the handler calls `on_ready` for the queue.
        """
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
        return self._work() is not None

    def _work(self) -> EngineWork[Any] | None:
        return None if self._served is None else self._served.plain_work(self._number)

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
            made = self._made(layout, position, stack)
            if made is None:
                return await super()._serve_ring(layout, position, most)
            work, engine = made
            stopped = await self._run(engine, work)
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
    ) -> tuple[EngineWork[Any], QueueEngine] | None:
        """Make an engine, and tell for what. Its descriptors are copies: a transport may close
        those it has."""
        with self._guard:
            work = self._work()
            bell, interrupt = self._bell(), self._interrupt()
            self._restarts_made_of = self._restarts
            if bell is None or work is None or self._core.epoch != self._epoch:
                return None
            copies = [
                _copy(fd, stack)
                for fd in (bell.fileno(), self._told.fileno() if interrupt is None else interrupt)
            ]
        place = layout.place
        engine = work.made(
            self._leases,
            SplitQueue(
                *place,
                indirect=Feature.INDIRECT in layout.features,
                event_index=Feature.EVENT_INDEX in layout.features,
                available=position.available,
                used=position.used,
                doorbell=copies[0],
                interrupt=copies[1],
            ),
        )
        return None if engine is None else (work, stack.enter_context(engine))

    async def _run(self, engine: QueueEngine, work: EngineWork[Any]) -> Stopped:
        """Run the engine on a thread until it stops, or is stopped when this is cancelled."""
        with self._guard:
            if self._core.epoch == self._epoch:
                self._core.follow(self._number, lambda: QueuePosition(*engine.position))
            self._engine = engine
            if self._restarts != self._restarts_made_of:
                # What it waits for or interrupts by has changed since: it is made anew.
                engine.kick()
            work.begun(engine)
        try:
            return await self._on_thread(engine)
        finally:
            with self._guard:
                self._engine = None
                work.ended(engine)
                if self._core.epoch == self._epoch:
                    self._core.follow(self._number, None)
                    self._core.move(self._number, QueuePosition(*engine.position))
            work.looked_at(engine)
            # Somebody may have waited for a lease that the engine has given back.
            self._leases.interrupt()

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
            "have a queue of a device served by the host's engine",
            error.errno or 0,
            f"a descriptor cannot be copied: {error.strerror}",
            "allow this process more open files (ulimit -n)",
        ) from error
    stack.callback(os.close, copy)
    return copy
