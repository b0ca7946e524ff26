# SPDX-License-Identifier: MIT
"""Queue server: the backend of every virtio device, whatever its kind and its transport.

A worker for each queue (`queue_worker`) takes chains and has a `QueueHandler` do what they ask for.
Here is what wakes the workers: doorbells, the core's callbacks, the handler.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import trio

from pyvmm.devices.protocols import Guard
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.hosts.interrupts import Doorbell
from pyvmm.machine.leases import Leases
from pyvmm.machine.loop_calls import call_soon
from pyvmm.machine.virtio.engine_worker import EngineServed, EngineWorker, InterruptsByEventfd
from pyvmm.machine.virtio.queue_handler import MemoryHandler, QueueHandler, TransportSide
from pyvmm.machine.virtio.queue_worker import QueueWorker


class QueueServer:
    """Serves the queues of `core` in the machine's nursery: a `Backend`.

    `name` is for people who want to know who works on memory. Callbacks of the core come under the
    guard and from any thread; everything else is the trio thread's.
    """

    def __init__(
        self,
        core: VirtioCore,
        handler: QueueHandler,
        transport: TransportSide,
        leases: Leases,
        guard: Guard,
        *,
        name: str,
    ) -> None:
        self._core = core
        self._handler = handler
        self._transport = transport
        self._guard = guard
        self._token: trio.lowlevel.TrioToken | None = None
        self._poll: select.epoll | None = None
        self._bells: Mapping[int, Doorbell] = {}
        self._polled: tuple[Doorbell, ...] = ()
        self._taken: frozenset[int] = frozenset()
        """Queues whose doorbells are an engine's."""
        self._workers = tuple(
            self._worker(number, leases, name) for number in range(core.queue_count)
        )
        self.handler = handler
        if isinstance(handler, MemoryHandler):
            handler.leases = leases
        self._wakes = tuple(partial(self._wake, number) for number in range(core.queue_count))
        handler.on_ready = self._ready
        handler.on_config_change = self._config_changed
        core.on_start = self._start
        core.on_notify = self._notify
        core.on_stop = self._stop
        core.on_restore = self._restore

    def _worker(self, number: int, leases: Leases, name: str) -> QueueWorker:
        parts = (number, self._core, self._handler, leases, self._guard)
        if not (isinstance(self._handler, EngineServed) and leases.has_engines):
            return QueueWorker(*parts, name=name)
        transport = self._transport
        by_eventfd = transport if isinstance(transport, InterruptsByEventfd) else None
        return EngineWorker(
            *parts,
            name=name,
            bell=lambda: self._bells.get(number),
            interrupt=lambda: None if by_eventfd is None else by_eventfd.interrupt_eventfd(number),
        )

    async def serve(self) -> None:
        """Work for the guest until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        with select.epoll() as poll:
            with self._guard:
                self._poll = poll
                self._take_bells()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._handler.serve)
                    for worker in self._workers:
                        nursery.start_soon(worker.serve)
                    await self._answer_bells(poll)
            finally:
                with self._guard:
                    self._poll = None
                    self._polled = ()

    async def _answer_bells(self, poll: select.epoll) -> None:
        while True:
            await trio.lowlevel.wait_readable(poll.fileno())
            rung = {fd for fd, _ in poll.poll(0)}
            with self._guard:
                bells = tuple(self._bells.items())
            for number, bell in bells:
                # Drained even where the queue does not run, or it would be readable for ever.
                if bell.fileno() in rung and bell.drain():
                    self._wake(number)

    def doorbells_changed(self) -> None:
        """Ask the transport for its doorbells anew, and look at every queue. Under the guard."""
        self._take_bells()
        self.interrupts_changed()
        self._soon(self._wake_all)

    def interrupts_changed(self) -> None:
        """Ask the transport anew by what queues interrupt. Under the guard."""
        for worker in self._workers:
            worker.restart()

    # -- from the core, under the guard and from any thread --

    def _take_bells(self) -> None:
        running = tuple(self._core.running_queues())
        self._bells = self._transport.doorbells(running)
        poll, before = self._poll, self._polled
        if poll is None:
            return
        self._taken = frozenset(filter(self._is_taken, self._bells))
        self._polled = tuple(
            bell for number, bell in self._bells.items() if number not in self._taken
        )
        if before == self._polled:
            return
        # One that was closed has left by itself.
        for bell in before:
            with suppress(OSError, ValueError):
                poll.unregister(bell.fileno())
        for bell in self._polled:
            poll.register(bell.fileno(), select.EPOLLIN)

    def _is_taken(self, queue: int) -> bool:
        return self._workers[queue].takes(self._core.running(queue))

    def _start(self) -> None:
        self.doorbells_changed()

    def _notify(self, queue: int) -> None:
        self._soon(self._wakes[queue])

    def _stop(self) -> None:
        self._take_bells()
        self._soon(self._cancel_stale)

    def _restore(self) -> None:
        for worker in self._workers:
            worker.was_restored = True
        self.doorbells_changed()
        self._soon(self._cancel_stale)

    def _soon(self, function: Callable[[], None]) -> None:
        # Before `serve` has begun, the first look is still to come.
        call_soon(self._token, function)

    # -- in the trio thread --

    def _ready(self, queue: int) -> None:
        """Look at a queue of which the handler says that something has changed."""
        with self._guard:
            if self._is_taken(queue) != (queue in self._taken):
                self._take_bells()
        self._wake(queue)

    def _wake(self, queue: int) -> None:
        self._workers[queue].wake()

    def _wake_all(self) -> None:
        for worker in self._workers:
            worker.wake()

    def _cancel_stale(self) -> None:
        for worker in self._workers:
            worker.cancel_stale()

    def _config_changed(self) -> None:
        with self._guard:
            self._core.config_changed()
