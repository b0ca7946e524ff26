# SPDX-License-Identifier: MIT
"""Workers: each takes the chains of one virtqueue, in order, and gives them back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import trio

from pyvmm.devices.protocols import Guard
from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.packed_ring import PackedRing
from pyvmm.devices.virtio.rings import (
    BadChainError,
    BrokenRingError,
    Chain,
    QueueLayout,
    QueuePosition,
    Ring,
    UnreadableError,
)
from pyvmm.devices.virtio.split_ring import SplitRing
from pyvmm.hosts.held_ranges import LeaseRefusal
from pyvmm.machine.leases import Lease, LeaseRefusedError, Leases, Range
from pyvmm.machine.virtio.queue_handler import (
    BoundChain,
    NotNowError,
    QueueHandler,
    RingFullError,
)

BATCH = 64
"""The most chains under one lease of the ring: a conversion of it waits that long."""
VACATING_PAUSE = 0.001
"""Seconds between two tries to lease memory that is about to be converted, reset or saved."""
_LATER = (LeaseRefusal.CONVERTING, LeaseRefusal.TOO_MANY, LeaseRefusal.MEMORY_SHORT)
"""Refusals that are no fault of the driver's, and pass."""
_MOST_WRITTEN = 0xFFFF_FFFF
"""A used entry has 32 bits for it."""


class LaterError(Exception):
    """Memory is about to be converted, reset or saved: nothing was done; try again."""


class QueueWorker:
    """Serves queue `number` of a device. In the trio thread.

    Ring and buffers are leased, each in one go, and both are held until the used index is written.
    """

    def __init__(
        self,
        number: int,
        core: VirtioCore,
        handler: QueueHandler,
        leases: Leases,
        guard: Guard,
        *,
        name: str,
    ) -> None:
        self._number = number
        self._core = core
        self._handler = handler
        self._leases = leases
        self._guard = guard
        self._name = name
        self._wanted = trio.Event()
        self._scope = trio.CancelScope()
        self._epoch = core.epoch
        self._chains = 0
        """Chains under the lease of the ring."""
        self.was_restored = False
        """Set to have the driver interrupted for what it may have missed."""

    def takes(self, layout: QueueLayout | None) -> bool:  # noqa: ARG002
        """Tell whether nobody else may wait for the doorbell of such a queue."""
        return False

    def restart(self) -> None:
        """Have doorbell and interrupt looked at again. Under the guard."""

    async def serve(self) -> None:
        """Take what there is, and whenever woken, until cancelled."""
        while True:
            # Before the look: what comes after it is not to be slept through.
            self._wanted = trio.Event()
            while await self.serve_batch():
                await trio.lowlevel.checkpoint()
            await self._wanted.wait()

    def wake(self) -> None:
        """Look at the queue."""
        self._wanted.set()

    def cancel_stale(self) -> None:
        """Let go of what was begun before a reset."""
        if self._epoch != self._core.epoch:
            self._scope.cancel()

    async def serve_batch(self) -> bool:
        """Serve some chains. Return True if there may be more."""
        if not self._handler.is_ready(self._number):
            return False
        with self._guard:
            layout = self._core.running(self._number)
            if layout is None:
                return False
            self._epoch = self._core.begin(self._number)
            self._scope = trio.CancelScope()
            position = self._core.position(self._number)
        try:
            return await self._serve_in_scope(layout, position)
        except LaterError:
            pass
        except NotNowError:
            return False
        except BrokenRingError:
            with self._guard:
                if self._core.epoch == self._epoch:
                    self._core.fail()
            return False
        finally:
            with self._guard:
                self._core.end(self._number)
        await trio.sleep(VACATING_PAUSE)
        return True

    async def _serve_in_scope(self, layout: QueueLayout, position: QueuePosition) -> bool:
        with self._scope:
            return await self._serve_ring(layout, position)
        return True  # A reset was in the way.

    async def _serve_ring(
        self, layout: QueueLayout, position: QueuePosition, most: int = BATCH
    ) -> bool:
        """Serve up to `most` chains, and what the last takes. Return True if there may be more."""
        try:
            lease = self._lease(layout.ranges, writable=True)
        except LeaseRefusedError as refused:
            raise BrokenRingError(refused.attempt, refused.cause) from refused
        with lease:
            ring = ring_over(layout, lease.views, position)
            if self.was_restored:
                self._interrupt_for_missed(ring)
            self._chains = 0
            while self._chains < most:
                if not await self._serve_next(ring):
                    return False
                if self._core.epoch != self._epoch:
                    return True
                if not self._handler.is_ready(self._number):
                    return False
        return True

    async def _serve_next(self, ring: Ring) -> bool:
        """Serve a chain, and those that it takes. Return False, with notifications asked for, if
        there is none."""
        start = ring.position
        taken: list[Chain] = []
        self._chains += 1
        try:
            chain = self._next(ring)
            if chain is None:
                return False
            ring.ask_for_notifications(False)
            with ExitStack() as stack:
                bound = self._bind(chain, ring, taken, stack)
                try:
                    written = await self._handler.handle(self._number, bound)
                except (OSError, ValueError):
                    written = 0
                # The buffers are held until then.
                self._give_back(ring, start, shares(taken, written))
        except BadChainError as bad:
            self._give_back(ring, start, [*((chain, 0) for chain in taken), (bad.chain, 0)])
        return True

    def _next(self, ring: Ring) -> Chain | None:
        """The next chain; None, with notifications asked for, if there is none."""
        chain = ring.next(self._table)
        if chain is None:
            ring.ask_for_notifications(True)
            self._barrier()
            chain = ring.next(self._table)
        return chain

    def _bind(self, chain: Chain, ring: Ring, taken: list[Chain], stack: ExitStack) -> BoundChain:
        """Lease a chain's buffers, by `stack`. Raises `BadChainError`."""
        parts: list[tuple[memoryview, ...]] = []
        for ranges, writable in ((chain.readable, False), (chain.writable, True)):
            if not ranges:
                parts.append(())
                continue
            try:
                lease = stack.enter_context(self._lease(ranges, writable=writable))
            except LeaseRefusedError as refused:
                raise BadChainError(chain, refused.cause) from refused
            parts.append(tuple(lease.views))
        taken.append(chain)
        ring.pass_over(chain)

        def another() -> BoundChain | None:
            counts = [one.descriptors for one in taken]
            # A driver that says more and more of them would keep the loop here.
            following = self._next(ring) if sum(counts) < ring.size else None
            if following is not None:
                self._chains += 1
                return self._bind(following, ring, taken, stack)
            if sum(counts) + max(counts) > ring.size:
                raise RingFullError
            return None

        return BoundChain(parts[0], parts[1], chain.writable, another)

    def _give_back(
        self, ring: Ring, start: QueuePosition, given: Sequence[tuple[Chain, int]]
    ) -> None:
        with self._guard:
            if self._core.epoch != self._epoch or self._core.needs_reset:
                return
            ring.position = start
            ring.put_used(given)
            self._core.move(self._number, ring.position)
        # To let go of a lock and take one is the memory barrier that belongs between the two.
        with self._guard:
            if self._core.epoch == self._epoch and ring.wants_interrupt(start):
                self._core.interrupt(self._number)

    def _interrupt_for_missed(self, ring: Ring) -> None:
        """The interrupts that another machine's driver was sent may be lost."""
        with self._guard:
            if self._core.epoch == self._epoch:
                self.was_restored = False
                if ring.missed():
                    self._core.interrupt(self._number)

    def _barrier(self) -> None:
        """Have everything written seen before anything else is read: taking a lock does that."""
        with self._guard:
            pass

    def _table(self, gpa: int, length: int) -> bytes:
        try:
            with self._lease(((gpa, length),), writable=False) as lease:
                return bytes(lease.views[0])
        except LeaseRefusedError as refused:
            raise UnreadableError(refused.attempt, refused.cause) from refused

    def _lease(self, ranges: Sequence[Range], *, writable: bool) -> Lease:
        try:
            return self._leases.lease(ranges, writable=writable, holder=self._name)
        except LeaseRefusedError as refused:
            if refused.reason in _LATER:
                raise LaterError from None
            raise


def ring_over(layout: QueueLayout, views: Sequence[memoryview], position: QueuePosition) -> Ring:
    """Make the ring of a queue over views of its parts."""
    if layout.is_packed:
        return PackedRing(layout, views, position)
    return SplitRing(layout, views, position)


def shares(chains: Sequence[Chain], written: int) -> list[tuple[Chain, int]]:
    """Each chain's part of `written` bytes, which fill one after the other."""
    if len(chains) == 1:
        return [(chains[0], min(written, _MOST_WRITTEN))]
    found = []
    for chain in chains:
        part = min(written, sum(length for _, length in chain.writable), _MOST_WRITTEN)
        written -= part
        found.append((chain, part))
    return found
