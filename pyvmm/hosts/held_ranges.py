# SPDX-License-Identifier: MIT
"""Ranges of guest memory that somebody holds; a host keeps them beside its lock of conversions."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from pyvmm.hosts.queue_engine import BlockEngine, BlockQueue, NetQueue, QueueEngine, SplitQueue

SEVERAL: Final = 0xFFFF
"""Lower 16 bits of the number of a lease of more than one region; otherwise they are the slot."""


class HeldKind(enum.IntEnum):
    """Reason why a range is held. The numbers are held.h's."""

    LEASE = 0
    """A device works on it: a conversion that takes it away waits."""
    LISTENER = 1
    """A device is told of its conversions: they are not the fast path's."""
    WAITING = 2
    """A conversion of it waits for a lease to end: no further lease is given."""
    CONVERTING = 3
    """It is being taken from the host in steps: no lease of it is given, no conversion begins."""
    WORKING = 4
    """It is worked on in steps (made shared, read, cleared): no conversion of it begins."""


class LeaseRefusal(enum.Enum):
    """Reason why a lease is refused; `cause` and `remedy` are for people."""

    EMPTY = (1, "it has no bytes")
    WRAPS = (2, "its end is beyond the last 64-bit address")
    NO_MEMORY = (3, "not all of it is guest memory")
    NOT_SHARED = (4, "a page of it is private or withheld")
    READ_ONLY = (5, "the guest's memory there is read-only")
    OVERLAPS = (6, "it overlaps another range of the same writable lease")
    CONVERTING = (
        7,
        "its pages are being converted, or about to be converted, reset or saved",
        "try again afterwards",
    )
    TOO_MANY = (8, "too many ranges are leased", "close other leases first")
    CLOSED = (9, "the machine has ended")
    MEMORY_SHORT = (10, "the host has no memory left", "give it more, or close other leases")
    TWO_REGIONS = (
        11,
        "it reaches from one memory region into the next, which lies elsewhere in the host",
        "ask for two ranges",
    )
    NOT_A_RANGE = (12, "a GPA and a length are numbers from 0 to 2^64 - 1")

    def __init__(self, code: int, cause: str, remedy: str = "") -> None:
        self.code = code
        self.cause = cause
        self.remedy = remedy


REFUSALS = {refusal.code: refusal for refusal in LeaseRefusal}


def refused_row(answer: int) -> tuple[int, LeaseRefusal]:
    """The index of the range that `HeldRanges.lease` refuses, and why; `answer` is negative."""
    return -answer >> 4, REFUSALS[-answer & 0xF]


class HeldRanges(Protocol):
    """Held ranges of one VM, and which of its pages are shared. Any thread.

    Each call is atomic with regard to all conversions of the VM, inside of
    `FastConversions.exclusive` or not. Addresses are GPAs in bytes. What vCPUs convert by
    themselves is known here at once; what else changes is told by `add_region`, `remove_region` and
    `note`.
    """

    def add_region(self, slot: int, gpa: int, size: int, *, writable: bool) -> None:
        """There is memory, all shared: whole pages; `slot` is below `SEVERAL`.

        Raises `InternalError` where there is some already, or the slot is taken, and
        `SystemCallError` (ENOMEM).
        """
        ...

    def place(self, slot: int, view: memoryview) -> None:
        """Note that the region of `slot` is at `view`, which is not kept: for engines."""
        ...

    @property
    def has_engines(self) -> bool:
        """True where there are engines."""
        ...

    def block_engine(self, ring: SplitQueue, disk: BlockQueue) -> BlockEngine | None:
        """Make an engine for a disk's queue in this memory; None: this host has none.

        Raises `SystemCallError`.
        """
        ...

    def net_engine(self, ring: SplitQueue, frames: NetQueue) -> QueueEngine | None:
        """Make an engine for a card's queue in this memory; None: this host has none.

        Raises `SystemCallError`.
        """
        ...

    def remove_region(self, slot: int) -> None:
        """The region of `slot` is there no longer."""
        ...

    def note(self, gpa: int, size: int, *, shared: bool) -> None:
        """Note that all pages of [gpa, gpa + size) are shared now, or none is. Whole pages."""
        ...

    def is_shared(self, gpa: int, size: int) -> bool:
        """Tell whether [gpa, gpa + size) is within one region, and all of it shared."""
        ...

    def lease(self, rows: bytes, count: int, writable: bool, /) -> int:
        """Lease `count` ranges, all or none. A number for `release`.

        `rows` has a GPA and a length for each, as the machine's own unsigned 64-bit numbers. The
        lower 16 bits of the answer are the slot that all of them are in, or `SEVERAL`. A negative
        number: refused (`refused_row`).
        """
        ...

    def hold(self, ranges: Sequence[tuple[int, int]], kind: HeldKind) -> int:
        """Hold ranges, each a GPA and a length, in another way than as a lease; its number.

        0, and nothing is held, where CONVERTING or WORKING is asked for and any of it is so
        already (`FastConversions.await_end`). Raises `UsageError` for one that is empty or wraps
        and where there are too many, and `SystemCallError` (ENOMEM).
        """
        ...

    def release(self, kind: HeldKind, number: int, /) -> bool:
        """Give back what the number was given for; tell whether a conversion waits for leases."""
        ...

    def overlapping(self, kind: HeldKind, gpa: int, size: int) -> int:
        """The number of what is held in that way of [gpa, gpa + size); 0 where nothing is."""
        ...
