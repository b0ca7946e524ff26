# SPDX-License-Identifier: MIT
"""vhost-net as the engine of a network card's queue: the host's kernel moves all of its frames.

It looks at no lease. So it works only while all memory that the guest can write to is leased as a
whole, and stops as soon as somebody wants any of it.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.rings import QueueLayout, QueuePlace
from pyvmm.errors import SystemCallError
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.held_ranges import LeaseRefusal
from pyvmm.hosts.queue_engine import EngineCounts, SplitQueue, Stopped
from pyvmm.machine.leases import LeaseRefusedError, Leases
from pyvmm.machine.ownership import StackOwner
from pyvmm.machine.standing_lease import HostRange, StandingLease
from pyvmm.net.vhost import HostRegion, VhostNet, VhostRing

TAP_PERIOD = 1.0
"""Seconds between two looks at whether the tap is there: its removal wakes nobody who does not
want to be woken by every frame, too (drivers/net/tun.c)."""
_NOTHING_DONE = EngineCounts(0, 0)


@dataclass(frozen=True, slots=True)
class VhostQueue:
    """A queue of a card's that vhost-net may serve: an `EngineWork`.

    `ring` is `vhost.RECEIVE` or `TRANSMIT`, `tap` the descriptor of the pair's tap, `features` are
    those that the driver has acknowledged; `name` is told to whoever wants the memory. `tap_gone`
    is called in the trio thread when somebody has removed the tap.
    """

    vhost: VhostNet
    ring: int
    tap: int
    features: int
    name: str
    tap_gone: Callable[[], None]

    def made(self, leases: Leases, ring: SplitQueue) -> VhostEngine:
        """Make an engine. Raises `SystemCallError`."""
        return VhostEngine(self, leases, ring)

    def begun(self, engine: VhostEngine) -> None:
        """Nothing is to be told."""

    def ended(self, engine: VhostEngine) -> None:
        """Nothing is to be told."""

    def looked_at(self, engine: VhostEngine) -> None:
        """Tell of a tap that is there no more."""
        if engine.has_lost_tap:
            self.tap_gone()


class VhostEngine(StackOwner):
    """A `QueueEngine` whose runs are the kernel's: its thread waits for a reason to stop it."""

    def __init__(self, queue: VhostQueue, leases: Leases, ring: SplitQueue) -> None:
        self._queue = queue
        self._leases = leases
        self._ring = ring
        self._available = ring.available
        self._is_wanted = False
        self.has_lost_tap = False
        """True once the tap was found removed, between two runs."""
        with ExitStack() as stack:
            self._kicked = stack.enter_context(Eventfd())
            self._broken = stack.enter_context(Eventfd())
            self.own(stack)

    def run(self, *, waits: bool = True) -> Stopped:
        """Have the ring served until there is a reason to stop."""
        if not waits:
            return Stopped.IDLE
        try:
            lease = StandingLease(self._leases, self._vacate, self._queue.name)
        except LeaseRefusedError as refused:
            if refused.reason in (LeaseRefusal.NOT_SHARED, LeaseRefusal.CLOSED):
                return Stopped.BROKEN
            return Stopped.VACATING
        with lease:
            return self._serve(lease.regions)

    def _serve(self, regions: tuple[HostRange, ...]) -> Stopped:
        ring, number, vhost = self._ring, self._queue.ring, self._queue.vhost
        features = Feature.EVENT_INDEX if ring.event_index else Feature(0)
        place = QueuePlace(ring.size, ring.descriptors, ring.driver, ring.device)
        parts = [_hva(part, regions) for part in QueueLayout(place, features).ranges]
        if None in parts:
            return Stopped.BROKEN
        descriptors, driver, device = (part or 0 for part in parts)
        vhost.set_up(self._queue.features, [HostRegion(*region) for region in regions])
        started = VhostRing(
            ring.size,
            descriptors,
            driver,
            device,
            self._available,
            kick=ring.doorbell,
            call=ring.interrupt,
            error=self._broken.fileno(),
            tap=self._queue.tap,
        )
        try:
            vhost.start(number, started)
        except SystemCallError:
            # EINVAL where the tap says POLLERR (vhost_poll_start of drivers/vhost/vhost.c).
            self.has_lost_tap = _is_removed(self._queue.tap)
            if not self.has_lost_tap:
                raise
            return Stopped.KICKED
        try:
            self._wait()
        finally:
            # All that the kernel has taken is given back, so that the position in the used ring is
            # the same. It comes before the end of the lease, which a saving may wait for.
            self._available = vhost.stop(number)
        if self._broken.drain():
            return Stopped.BROKEN
        return Stopped.VACATING if self._is_wanted else Stopped.KICKED

    def _wait(self) -> None:
        poll = select.poll()
        for end in (self._kicked, self._broken):
            poll.register(end.fileno(), select.POLLIN)
        tap = self._queue.tap
        poll.register(tap, 0)
        while not (found := poll.poll(1000 * TAP_PERIOD)):
            pass
        self.has_lost_tap = any(fd == tap for fd, _ in found)

    def _vacate(self) -> None:
        self._is_wanted = True
        self.kick()

    def kick(self) -> None:
        """End a run."""
        self._kicked.signal()

    @property
    def position(self) -> tuple[int, int]:
        """Positions in both rings: one, since the kernel gives back all that it has taken."""
        return self._available, self._available

    @property
    def counts(self) -> EngineCounts:
        """Nothing: what the kernel has done is counted by the tap alone."""
        return _NOTHING_DONE


def _is_removed(tap: int) -> bool:
    poll = select.poll()
    poll.register(tap, 0)
    return bool(poll.poll(0))


def _hva(part: tuple[int, int], regions: tuple[HostRange, ...]) -> int | None:
    """HVA of a part of a ring, as GPA and length in bytes; None where it is not in one region."""
    start, length = part
    for gpa, size, hva in regions:
        if gpa <= start and start + length <= gpa + size:
            return hva + start - gpa
    return None
