# SPDX-License-Identifier: MIT
"""Virtqueues as both kinds of ring have them: places, positions, chains, and the ways they break.

The driver may write any of a ring at any time: everything is copied once, and checked after that.
A ring that cannot be understood is a `BrokenRingError`, after which a device needs a reset; a chain
that cannot be is a `BadChainError`: it is given back with nothing written, and the ring goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

from pyvmm.devices.virtio.features import NO_FEATURES, Feature
from pyvmm.errors import PyvmmError

MOST_DESCRIPTORS: Final = 1024
"""Largest size of a queue here, and of a chain: a lease has as many ranges."""
MOST_BYTES: Final = 1 << 32
"""Most bytes of a chain, both directions together (2.7.4.2)."""
GPA_END: Final = 1 << 64

Buffer = tuple[int, int]
"""GPA and length in bytes of a buffer."""

TableReader = Callable[[int, int], bytes]
"""Function that copies a table of descriptors (GPA, length in bytes). Raises `UnreadableError`."""


class UnreadableError(PyvmmError):
    """Guest memory that a device may not read: private, none, or not in one piece."""


class BrokenRingError(PyvmmError):
    """A ring says what no driver may say: nothing behind it can be trusted."""


class Chain(NamedTuple):
    """Buffers that a driver has made available: for the device to read, then those to write.

    `head` is what the used ring calls the chain by: the number of its first descriptor, or the
    buffer ID. `descriptors` is the number of the ring's descriptors that it takes.
    """

    head: int
    readable: tuple[Buffer, ...]
    writable: tuple[Buffer, ...]
    descriptors: int = 1


class BadChainError(PyvmmError):
    """A chain that no device may follow. `chain` has no buffers: it is there to be given back."""

    def __init__(self, chain: Chain, cause: str) -> None:
        super().__init__(f"follow the descriptors of chain {chain.head}", cause)
        self.chain = chain


class QueuePlace(NamedTuple):
    """Size of a queue in descriptors, and GPAs of its three parts.

    Of a split ring: descriptors, available ring, used ring; of a packed one: descriptors, the
    driver's and the device's event suppression.
    """

    size: int
    descriptors: int
    driver: int
    device: int


class QueueLayout(NamedTuple):
    """A queue as it was when it was enabled: its place, and the features that were acknowledged."""

    place: QueuePlace
    features: Feature = NO_FEATURES

    @property
    def is_packed(self) -> bool:
        """True for a packed ring."""
        return Feature.PACKED in self.features

    @property
    def ranges(self) -> tuple[Buffer, Buffer, Buffer]:
        """GPA and length in bytes of each of the three parts."""
        size, descriptors, driver, device = self.place
        if self.is_packed:
            return (descriptors, 16 * size), (driver, 4), (device, 4)
        event = 2 if Feature.EVENT_INDEX in self.features else 0
        return (
            (descriptors, 16 * size),
            (driver, 4 + 2 * size + event),
            (device, 4 + 8 * size + event),
        )

    @property
    def is_possible(self) -> bool:
        """True for a size and an alignment that virtio allows (2.7, 2.8), and no address that
        wraps."""
        size, descriptors, driver, device = self.place
        if not 0 < size <= MOST_DESCRIPTORS:
            return False
        if self.is_packed:
            aligned = not (descriptors % 16 or driver % 4 or device % 4)
        else:
            aligned = not (descriptors % 16 or driver % 2 or device % 4 or size & (size - 1))
        return aligned and all(gpa + length <= GPA_END for gpa, length in self.ranges)


class QueuePosition(NamedTuple):
    """Progress of a device in a ring: `available` is the next chain to take, `used` the next to
    give back.

    Of a split ring both are free-running numbers of 16 bits. Of a packed one they are numbers of
    descriptors, each with its wrap counter.
    """

    available: int = 0
    used: int = 0
    available_wrap: bool = True
    used_wrap: bool = True


START: Final = QueuePosition()
"""Position in a queue that is new."""


class Ring(Protocol):
    """A ring over views of its three parts (`QueueLayout.ranges`), leased for as long as it lives.

    It has no state but `position`, which moves when chains are given back, and ahead of that where
    they are passed over: so what is under way is still available to who starts again from it.
    """

    size: int
    """Number of its descriptors."""
    position: QueuePosition

    def next(self, tables: TableReader) -> Chain | None:
        """The chain at `position`, which stays there; None where the driver is no further.

        Raises `BrokenRingError` and `BadChainError`.
        """
        ...

    def pass_over(self, chain: Chain) -> None:
        """Have `next` look behind the chain that it gave, though that is not given back yet."""
        ...

    def put_used(self, given: Sequence[tuple[Chain, int]]) -> None:
        """Give back chains that `next` gave from `position` on, at once: a driver that sees one of
        them sees all. Of each, so many bytes were written from its start on.

        From then on the buffers are the driver's, though no notification has told it.
        """
        ...

    def wants_interrupt(self, before: QueuePosition) -> bool:
        """Tell whether the driver wants to be told of what was given back since `before`.

        To be asked behind a memory barrier after `put_used`, or both sides may miss each other
        (2.7.10, 2.8.21).
        """
        ...

    def ask_for_notifications(self, wanted: bool) -> None:
        """Ask the driver to notify of the next chain, or not to: it may all the same.

        Where `wanted`, look for a chain once more behind a memory barrier.
        """
        ...

    def missed(self) -> bool:
        """Tell whether the driver waits for something that was given back already.

        For a ring that goes on in another machine, where the interrupt for it may be lost.
        """
        ...
