# SPDX-License-Identifier: MIT
"""Split virtqueue, the device's side (virtio 1.2, section 2.7), on views of guest memory.

The driver may write any of it at any time: everything is copied once, and checked after that. A
ring that cannot be understood is a `BrokenRingError`, after which a device needs a reset; a chain
that cannot be is a `BadChainError`, and the ring goes on behind it.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from pyvmm.errors import PyvmmError

MOST_DESCRIPTORS: Final = 1024
"""Largest size of a queue here: a lease has as many ranges."""
_NEXT: Final = 1
_WRITE: Final = 2
_INDIRECT: Final = 4
_NO_INTERRUPT: Final = 1
_DESCRIPTOR: Final = struct.Struct("<QIHH")
_USED: Final = struct.Struct("<II")
_WORD: Final = struct.Struct("<H")
_INDEX: Final = 2
_RING: Final = 4
_GPA_END: Final = 1 << 64
_MOST_BYTES: Final = 1 << 32
_WRAP: Final = 0xFFFF

Buffer = tuple[int, int]
"""GPA and length in bytes of a buffer."""


class BrokenRingError(PyvmmError):
    """A ring says what no driver may say: nothing behind it can be trusted."""


class BadChainError(PyvmmError):
    """A chain of descriptors that no device may follow; `head` is its first one's number."""

    def __init__(self, head: int, cause: str) -> None:
        super().__init__(f"follow the descriptors from {head} on", cause)
        self.head = head


class QueuePlace(NamedTuple):
    """Size of a queue in descriptors, and GPAs of its three parts."""

    size: int
    descriptors: int
    driver: int
    device: int

    @property
    def ranges(self) -> tuple[Buffer, Buffer, Buffer]:
        """GPA and length of the descriptors, of the available ring and of the used ring."""
        return (
            (self.descriptors, 16 * self.size),
            (self.driver, _RING + 2 * self.size),
            (self.device, _RING + 8 * self.size),
        )

    @property
    def is_possible(self) -> bool:
        """True for a size and an alignment that virtio allows (2.7), without an address that
        wraps."""
        size = self.size
        return (
            0 < size <= MOST_DESCRIPTORS
            and not size & (size - 1)
            and not (self.descriptors % 16 or self.driver % 2 or self.device % 4)
            and all(gpa + length <= _GPA_END for gpa, length in self.ranges)
        )


class Chain(NamedTuple):
    """Buffers that a driver has made available: for the device to read, then those to write."""

    head: int
    readable: tuple[Buffer, ...]
    writable: tuple[Buffer, ...]


class SplitRing:
    """A split ring over `views` of its three parts (`QueuePlace.ranges`), for `size` descriptors.

    It has no state but the views: positions are the caller's, free-running numbers of 16 bits.
    """

    __slots__ = ("_available", "_descriptors", "_size", "_used")

    def __init__(self, size: int, descriptors: memoryview, available: memoryview, used: memoryview):
        self._size = size
        self._descriptors = descriptors
        self._available = available
        self._used = used

    def next(self, position: int) -> Chain | None:
        """The chain at `position` of the available ring; None where the driver is no further.

        Raises `BrokenRingError` and `BadChainError`.
        """
        (index,) = _WORD.unpack_from(self._available, _INDEX)
        waiting = (index - position) & _WRAP
        if not waiting:
            return None
        if waiting > self._size:
            raise BrokenRingError(
                "take the next chain of a virtqueue",
                f"{waiting} are said to be available, of {self._size} descriptors",
            )
        (head,) = _WORD.unpack_from(self._available, _RING + 2 * (position % self._size))
        if head >= self._size:
            raise BrokenRingError(
                "take the next chain of a virtqueue",
                f"it begins at descriptor {head} of {self._size}",
            )
        return self._follow(head)

    def _follow(self, head: int) -> Chain:
        readable: list[Buffer] = []
        writable: list[Buffer] = []
        total, number = 0, head
        for _ in range(self._size):
            gpa, length, flags, following = _DESCRIPTOR.unpack_from(self._descriptors, 16 * number)
            total += length
            if flags & _INDIRECT:
                raise BadChainError(head, "a table of descriptors was not negotiated")
            if not length:
                raise BadChainError(head, "a buffer has no bytes")
            if gpa + length > _GPA_END or total > _MOST_BYTES:
                raise BadChainError(head, "it is longer than addresses or lengths are")
            if flags & _WRITE:
                writable.append((gpa, length))
            elif writable:
                raise BadChainError(head, "a buffer to read follows one to write")
            else:
                readable.append((gpa, length))
            if not flags & _NEXT:
                return Chain(head, tuple(readable), tuple(writable))
            number = following
            if number >= self._size:
                raise BadChainError(head, f"it goes on at descriptor {number} of {self._size}")
        raise BadChainError(head, "it has more descriptors than the ring")

    def put_used(self, position: int, head: int, written: int) -> None:
        """Give a chain back, `written` bytes of it written, as the used ring's entry `position`.

        The index comes last: from then on the buffers are the driver's.
        """
        _USED.pack_into(self._used, _RING + 8 * (position % self._size), head, written)
        _WORD.pack_into(self._used, _INDEX, (position + 1) & _WRAP)

    @property
    def wants_interrupt(self) -> bool:
        """False while the driver asks for none. To be read behind a memory barrier after
        `put_used`, or both sides may miss each other (2.7.7)."""
        flags: int = _WORD.unpack_from(self._available, 0)[0]
        return not flags & _NO_INTERRUPT
