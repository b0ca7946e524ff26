# SPDX-License-Identifier: MIT
"""Packed virtqueue, the device's side (virtio 1.2, section 2.8), on views of guest memory.

One ring of descriptors goes both ways. A descriptor is available while its AVAIL bit is as the
driver's wrap counter and its USED bit is not; it is used when both are as the device's.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from pyvmm.devices.virtio.descriptors import DESCRIPTOR, INDIRECT, NEXT, SIZE, Following, table_of
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.rings import (
    BadChainError,
    BrokenRingError,
    Chain,
    QueueLayout,
    QueuePosition,
    TableReader,
)

_WRITE: Final = 2
_AVAIL: Final = 1 << 7
_USED: Final = 1 << 15
_FLAGS: Final = 14
"""Offset of the flags in a descriptor."""
_WORD: Final = struct.Struct("<H")
_EVENT: Final = struct.Struct("<HH")
"""Event suppression: offset in the ring with its wrap counter in the top bit, and flags."""
_EVENT_POSITION: Final = 0
_EVENT_FLAGS: Final = 1
_USED_PART: Final = struct.Struct("<IH")
"""Length and buffer ID of a used descriptor, from byte 8 on."""
_WRAP: Final = 1 << 15
_ENABLE: Final = 0
_DISABLE: Final = 1
_AT_POSITION: Final = 2
_KNOWN: Final = 3


class PackedRing:
    """A packed ring over `views` of its three parts (`QueueLayout.ranges`)."""

    __slots__ = (
        "_descriptors", "_device_words", "_driver", "_has_events", "_has_tables",
        "_words", "position", "size",
    )  # fmt: skip

    def __init__(
        self, layout: QueueLayout, views: Sequence[memoryview], position: QueuePosition
    ) -> None:
        self.size = layout.place.size
        self._descriptors, self._driver, device = views
        # A store by them is one store. `Struct.pack_into` clears the bytes first, and the driver
        # looks at them at any time.
        self._words, self._device_words = self._descriptors.cast("H"), device.cast("H")
        self._has_events = Feature.EVENT_INDEX in layout.features
        self._has_tables = Feature.INDIRECT in layout.features
        self.position = position

    def next(self, tables: TableReader) -> Chain | None:
        """The chain at `position`; None where the driver is no further.

        Raises `BadChainError`, and `BrokenRingError` for a chain of which nobody can tell where the
        next one begins.
        """
        number, wrap = self.position.available, self.position.available_wrap
        (flags,) = _WORD.unpack_from(self._descriptors, SIZE * number + _FLAGS)
        if not _is_available(flags, wrap):
            return None
        # The rest of a descriptor is read behind its flags, which the driver writes last.
        found: list[tuple[int, int, int]] = []
        for _ in range(self.size):
            gpa, length, ident, flags = DESCRIPTOR.unpack_from(self._descriptors, SIZE * number)
            if not _is_available(flags, wrap):
                # The driver makes the first one of a chain available last (2.8.6).
                raise _broken("a chain goes on at a descriptor that is not available")
            found.append((gpa, length, flags))
            if not flags & NEXT:
                # The last one has the ID (2.8.6).
                return self._chain(Chain(ident, (), (), len(found)), found, tables)
            number += 1
            if number == self.size:
                number, wrap = 0, not wrap
        raise _broken(f"a chain has more descriptors than the ring, {self.size}")

    def _chain(
        self, chain: Chain, found: Sequence[tuple[int, int, int]], tables: TableReader
    ) -> Chain:
        following = Following(chain)
        for gpa, length, flags in found:
            if not flags & INDIRECT:
                following.add(gpa, length, flags)
                continue
            if not self._has_tables:
                raise BadChainError(chain, "a table of descriptors was not negotiated")
            if len(found) > 1:
                raise BadChainError(chain, "a table of descriptors is a chain by itself (2.8.7)")
            table = table_of(chain, gpa, length, tables)
            # WRITE is the only flag there is in a table, and the order is the table's (2.8.7).
            for at, size, _, bits in DESCRIPTOR.iter_unpack(table):
                following.add(at, size, bits & _WRITE)
        return following.whole(chain.descriptors)

    def pass_over(self, chain: Chain) -> None:
        """Have `next` look behind a chain."""
        position = self.position
        available, wrap = self._behind(
            position.available, position.available_wrap, chain.descriptors
        )
        self.position = position._replace(available=available, available_wrap=wrap)

    def put_used(self, given: Sequence[tuple[Chain, int]]) -> None:
        """Give chains back, each with the number of bytes written.

        The flags come last, those of the first chain behind all others: from then on the buffers
        are the driver's.
        """
        position = self.position
        number, wrap = position.used, position.used_wrap
        flags: list[tuple[int, int]] = []
        for chain, written in given:
            _USED_PART.pack_into(self._descriptors, SIZE * number + 8, written, chain.head)
            value = (_AVAIL | _USED if wrap else 0) | (_WRITE if written else 0)
            flags.append(((SIZE * number + _FLAGS) // 2, value))
            number, wrap = self._behind(number, wrap, chain.descriptors)
        for word, value in reversed(flags):
            self._words[word] = value
        available, available_wrap = position.available, position.available_wrap
        for chain, _ in given:
            available, available_wrap = self._behind(available, available_wrap, chain.descriptors)
        self.position = QueuePosition(available, number, available_wrap, wrap)

    def _behind(self, number: int, wrap: bool, count: int) -> tuple[int, bool]:
        number += count
        return (number - self.size, not wrap) if number >= self.size else (number, wrap)

    def wants_interrupt(self, before: QueuePosition) -> bool:
        """Tell whether the driver wants to be told of what came after `before`."""
        given = (self.position.used - before.used) % self.size or self.size
        return self._wants_interrupt(given)

    def missed(self) -> bool:
        """Tell whether the driver waits for something that was given back already."""
        return self._wants_interrupt(self.size)

    def _wants_interrupt(self, given: int) -> bool:
        """Tell it of the last `given` descriptors."""
        event, flags = _EVENT.unpack_from(self._driver)
        flags &= _KNOWN
        if not self._has_events or flags != _AT_POSITION:
            # A value that is reserved suppresses nothing.
            return bool(flags != _DISABLE)
        behind: int = self.position.used - (event & ~_WRAP)
        if bool(event & _WRAP) != self.position.used_wrap:
            behind += self.size
        return 0 < behind <= given

    def ask_for_notifications(self, wanted: bool) -> None:
        """Ask the driver to notify of the next chain, or not to."""
        if not wanted:
            self._device_words[_EVENT_FLAGS] = _DISABLE
        elif self._has_events:
            number, wrap = self.position.available, self.position.available_wrap
            # Position before flags: the flags say that it counts.
            self._device_words[_EVENT_POSITION] = number | (_WRAP if wrap else 0)
            self._device_words[_EVENT_FLAGS] = _AT_POSITION
        else:
            self._device_words[_EVENT_FLAGS] = _ENABLE


def _is_available(flags: int, wrap: bool) -> bool:
    return bool(flags & _AVAIL) == wrap and bool(flags & _USED) != wrap


def _broken(cause: str) -> BrokenRingError:
    return BrokenRingError("take the next chain of a packed virtqueue", cause)
