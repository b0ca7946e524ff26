# SPDX-License-Identifier: MIT
"""Leases: guest memory that a device works on, and conversions that wait until it has done.

The way of OpenHCL (``openhcl/underhill_mem``): what is leased is not converted. Who wants to take
leased pages away waits for a while (`Vacating`), and is refused then.
"""

from __future__ import annotations

import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import TYPE_CHECKING, Self

import trio

from pyvmm.errors import ConversionRefusedError, ExitCode, InternalError, PyvmmError
from pyvmm.hosts.held_ranges import SEVERAL, HeldKind, HeldRanges, LeaseRefusal, refused_row
from pyvmm.hosts.owner import Owner
from pyvmm.machine.tracked_memory import SharedPart, TrackedMemory
from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.queue_engine import BlockEngine, BlockQueue, NetQueue, QueueEngine, SplitQueue

MOST_RANGES = 1024
"""Largest number of ranges in a lease: a virtqueue's size is at most that on QEMU."""
LEASE_PATIENCE = 1.0
"""Seconds that a conversion waits for the leases of its pages to end."""

_LEASE = HeldKind.LEASE
_AT_ONCE = 2 << 20
"""Bytes that are discarded under one lock."""

Range = tuple[int, int]
"""A GPA and a length, in bytes."""


class LeaseRefusedError(PyvmmError):
    """A lease cannot be given, and nothing has been touched: `reason`, for the range at `index`."""

    exit_code = ExitCode.USAGE

    def __init__(
        self, attempt: str, cause: str, reason: LeaseRefusal, index: int, remedy: str = ""
    ) -> None:
        super().__init__(attempt, cause, remedy or reason.remedy)
        self.reason = reason
        self.index = index


class LeaseHeldError(ConversionRefusedError):
    """Pages that were to be taken from the host are leased, and were for as long as one waits.

    `interrupted`: the wait ended early, since the vCPU that waited was wanted for something else.
    """

    def __init__(self, attempt: str, holder: str, *, interrupted: bool) -> None:
        super().__init__(attempt, f"{holder} works on a part of it", "try again when it has done")
        self.interrupted = interrupted


class Lease(Owner):
    """Guest memory that is not converted until `close`: a context manager.

    `views` has a `memoryview` for each range that was asked for, in that order: the memory itself,
    writable if the lease is. They are released by `close`; slices of them are the caller's to drop
    before. After the machine's end they are memory still, but the guest's no more.
    """

    __slots__ = ("_give_back", "_number", "views")

    def __init__(
        self, give_back: Callable[[int], None], number: int, views: Sequence[memoryview]
    ) -> None:
        self._give_back = give_back
        self._number = number
        self.views = views

    def close(self) -> None:
        """Let conversions have the pages; a second call does nothing. Any thread.

        Raises `BufferError` while a view is in use (a system call, an array made of it): then the
        lease goes on, of all its ranges, though the views before that one are released. Close it
        again once nothing uses the view.
        """
        if self.views:
            for view in self.views:
                view.release()
            self.views = ()
            self._give_back(self._number)


class Leases:
    """The leases of one machine's memory. Any thread.

    `wanted` tells whether vCPU threads are wanted for something else; `interrupt` must be called
    when it becomes true.
    """

    def __init__(
        self,
        tracked: TrackedMemory,
        wanted: Callable[[], bool],
        patience: float = LEASE_PATIENCE,
    ) -> None:
        self._tracked = tracked
        self._held: HeldRanges = tracked.vm.conversions.held
        self._lease, self._release = self._held.lease, self._held.release
        self.wanted = wanted
        self.patience = patience
        self._condition = threading.Condition(threading.Lock())
        self._changes = 0
        self.askers: dict[object, Callable[[], None]] = {}
        """Functions that ask whoever has a standing lease to end it, by that lease."""
        self._packers: dict[int, Callable[..., bytes]] = {}
        """By the number of ranges: what makes the rows that the host takes."""
        self._holders: dict[int, str] = {}

    def lease(
        self, ranges: Sequence[Range], *, writable: bool = False, holder: str = "a device"
    ) -> Lease:
        """Lease `ranges`, each a GPA and a length in bytes, for work on the memory itself.

        All or none, and nothing is touched before that is known. Until the lease is closed no page
        of it is converted: whoever wants to waits `LEASE_PATIENCE` seconds at the most and is
        refused then, with the name of the `holder`. A range lies in one memory region: what reaches
        into the next one is refused, since that lies elsewhere in the host; ask for two. From 1 to
        `MOST_RANGES` ranges. Any thread; hold no lock of the machine's meanwhile.

        Raises `LeaseRefusedError` for a range that is private, withheld or no memory, read-only (if
        `writable`), empty, that wraps, that overlaps another (if `writable`), or that is
        being taken from the host, or about to be converted, reset or saved as soon as other leases
        have ended.
        """
        count = len(ranges)
        if not 0 < count <= MOST_RANGES:
            raise self._refused_number(count)
        ranges = tuple(ranges)  # What is looked at here is what is leased.
        pack = self._packers.get(count)
        if pack is None:
            pack = self._packers[count] = struct.Struct(f"={2 * count}Q").pack
        try:
            rows = pack(*chain.from_iterable(ranges))
        except (struct.error, TypeError) as error:
            raise _refused_numbers(ranges) from error
        number = self._lease(rows, count, writable)
        if number < 0:
            raise self._refused(ranges, *refused_row(number))
        try:
            slot = number & SEVERAL
            if slot == SEVERAL:
                views = [self._view(gpa, size) for gpa, size in ranges]
            else:
                base, first = self._tracked.bases[slot]
                views = [base[(at := gpa - first) : at + size] for gpa, size in ranges]
            if not writable:
                views = [view.toreadonly() for view in views]
            self._holders[number] = holder
            return Lease(self.give_back, number, views)
        except BaseException as failure:
            self.give_back(number)
            if isinstance(failure, Exception) and self._tracked.is_closed:
                raise self._refused(ranges, 0, LeaseRefusal.CLOSED) from failure
            if isinstance(failure, ValueError):  # Three numbers and one are as many as two and two.
                raise _refused_numbers(ranges) from failure
            raise

    def writable_regions(self) -> tuple[tuple[int, int, int], ...]:
        """GPA, length in bytes and HVA of each region that the guest can write to, ascending."""
        with self._tracked.exclusive():
            return self._tracked.writable_regions()

    def discard(self, gpa: int, size: int) -> int:
        """Give pages of [gpa, gpa + size), in bytes, page-aligned, back to the host.

        They read as zeroes then. What is not shared and writable is left; what is leased is not.
        Return the bytes given back. Any thread; holds the lock on conversions for a part at a time.
        Raises `SystemCallError`.
        """
        done = 0
        for start in range(gpa, gpa + size, _AT_ONCE):
            end = min(start + _AT_ONCE, gpa + size)
            with self._tracked.exclusive():
                for sides, part in self._shared_parts(start, end):
                    if sides.is_writable:
                        sides.discard_shared(part)
                        done += part.size
        return done

    def _shared_parts(self, start: int, end: int) -> Iterator[SharedPart]:
        """The shared parts of [start, end), bytes; a page at a time where not all of it is."""
        whole = self._tracked.shared_parts(start, end - start)
        if whole is not None:
            yield from whole
            return
        for page in range(start, end, PAGE_SIZE):
            yield from self._tracked.shared_parts(page, PAGE_SIZE) or ()

    def _view(self, gpa: int, size: int) -> memoryview:
        """The memory of a range that is leased by now, so that its region stays."""
        for base, first in tuple(self._tracked.bases.values()):
            if first <= gpa < first + len(base):
                return base[gpa - first : gpa - first + size]
        raise InternalError(f"find gpa {gpa:#x}, which is leased", "there is no such memory")

    def block_engine(self, ring: SplitQueue, disk: BlockQueue) -> BlockEngine | None:
        """Make an engine that takes leases by itself; None where the host has none.

        Whoever runs it calls `interrupt` after each run. Raises `SystemCallError`.
        """
        return self._held.block_engine(ring, disk)

    def net_engine(self, ring: SplitQueue, frames: NetQueue) -> QueueEngine | None:
        """Make an engine of a card's queue; see `block_engine`."""
        return self._held.net_engine(ring, frames)

    @property
    def has_engines(self) -> bool:
        """True where there are engines."""
        return self._held.has_engines

    def give_back(self, number: int) -> None:
        """The lease of that number has ended."""
        self._holders.pop(number, None)
        if self._release(_LEASE, number):
            self.interrupt()

    def holder_over(self, range_: GpaRange) -> str | None:
        """The name of who holds a lease of any of `range_`; None where nobody does."""
        number = self._held.overlapping(_LEASE, range_.start, range_.size)
        return self._holders.get(number, "a device") if number else None

    def vacating(self, range_: GpaRange) -> Vacating:
        """Keep `range_` from being leased inside of the block; `Vacating.wait` for what is."""
        return Vacating(self, self._held, range_)

    def interrupt(self) -> None:
        """End the waits of vCPU threads, which are wanted elsewhere. Any thread."""
        with self._condition:
            self._changes += 1
            self._condition.notify_all()

    def wait(self, range_: GpaRange, *, on_vcpu: bool) -> bool:
        """Wait until no lease overlaps `range_`; True where the vCPU was wanted before that."""

        def is_wanted() -> bool:
            return on_vcpu and self.wanted()

        def has_changed() -> bool:
            return self._changes != seen or is_wanted()

        until = time.monotonic() + self.patience
        seen = self._changes
        # Asking waits for the lock of conversions: not under the condition, for which trio waits.
        while self._held.overlapping(_LEASE, range_.start, range_.size) and not is_wanted():
            with self._condition:
                if not self._condition.wait_for(has_changed, until - time.monotonic()):
                    break
                seen = self._changes
        return is_wanted()

    # -- refusals --

    def _refused_number(self, count: int) -> LeaseRefusedError:
        return LeaseRefusedError(
            f"lease {count} ranges of guest memory",
            f"a lease has from 1 to {MOST_RANGES}",
            LeaseRefusal.TOO_MANY if count else LeaseRefusal.EMPTY,
            0,
            "ask for several leases" if count else "",
        )

    def _refused(
        self, ranges: Sequence[Range], index: int, reason: LeaseRefusal
    ) -> LeaseRefusedError:
        gpa, size = ranges[index]
        if reason is LeaseRefusal.NO_MEMORY:
            if self._tracked.is_closed:
                reason = LeaseRefusal.CLOSED
            elif self._tracked.regions.parts(GpaRange(gpa, gpa + size)) is not None:
                reason = LeaseRefusal.TWO_REGIONS
        return LeaseRefusedError(_attempt(ranges, index), reason.cause, reason, index)


class Vacating:
    """Inside of it no lease of `range_` is given. A context manager; one thread at a time."""

    def __init__(self, leases: Leases, held: HeldRanges, range_: GpaRange) -> None:
        self._leases = leases
        self._held = held
        self._range = range_
        self._number = 0

    @property
    def is_vacant(self) -> bool:
        """True if no lease is out, which stays so."""
        return self._leases.holder_over(self._range) is None

    def wait(self, attempt: str, *, on_vcpu: bool = False) -> None:
        """Wait for the leases that are out. Holds no lock, and must not be called with one.

        `on_vcpu`: the thread is a vCPU's, which may be wanted elsewhere. Raises `LeaseHeldError`
        for the `attempt` when one is still out after `LEASE_PATIENCE`.
        """
        interrupted = self._leases.wait(self._range, on_vcpu=on_vcpu)
        holder = self._leases.holder_over(self._range)
        if holder is not None:
            raise LeaseHeldError(attempt, holder, interrupted=interrupted)

    async def wait_in_trio(self, attempt: str) -> None:
        """As `wait`, on a worker thread where there is something to wait for."""
        if not self.is_vacant:
            await trio.to_thread.run_sync(self.wait, attempt)

    def __enter__(self) -> Self:
        self._number = self._held.hold([(self._range.start, self._range.size)], HeldKind.WAITING)
        for ask in tuple(self._leases.askers.values()):
            ask()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.release(HeldKind.WAITING, self._number)


def _attempt(ranges: Sequence[Range], index: int) -> str:
    gpa, size = ranges[index]
    which = "" if len(ranges) == 1 else f" (range {index} of {len(ranges)})"
    return f"lease {size} bytes of guest memory at gpa {gpa:#x}{which}"


def _refused_numbers(ranges: Sequence[Range]) -> LeaseRefusedError:
    """Make the error for the first range that is not two numbers of 64 bits."""
    for index, range_ in enumerate(ranges):
        try:
            gpa, size = range_
            array("Q", (gpa, size))
        except (OverflowError, TypeError, ValueError):
            attempt = f"lease range {index} of {len(ranges)} of guest memory, {range_!r:.80}"
            reason = LeaseRefusal.NOT_A_RANGE
            return LeaseRefusedError(attempt, reason.cause, reason, index)
    raise InternalError("refuse a lease", "all of its ranges are numbers")
