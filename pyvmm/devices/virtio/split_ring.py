# SPDX-License-Identifier: MIT
"""Split virtqueue, the device's side (virtio 1.2, section 2.7), on views of guest memory."""

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

_NO_INTERRUPT: Final = 1
_NO_NOTIFY: Final = 1
_USED: Final = struct.Struct("<II")
_WORD: Final = struct.Struct("<H")
_INDEX: Final = 2
_RING: Final = 4
_FLAGS_WORD: Final = 0
_INDEX_WORD: Final = 1
_WRAP: Final = 0xFFFF


class SplitRing:
    """A split ring over `views` of its three parts (`QueueLayout.ranges`)."""

    __slots__ = (
        "_avail_event",
        "_available",
        "_descriptors",
        "_has_events",
        "_has_tables",
                "_used",
        "_used_event",
        "_used_words",
        "position",
        "size",
    )  # fmt: skip

    def __init__(
        self, layout: QueueLayout, views: Sequence[memoryview], position: QueuePosition
    ) -> None:
        self.size = layout.place.size
        self._descriptors, self._available, self._used = views
        # A store by them is one store. `Struct.pack_into` clears the bytes first, and the driver
        # looks at them at any time.
        self._used_words = self._used.cast("H")
        self._has_events = Feature.EVENT_INDEX in layout.features
        self._has_tables = Feature.INDIRECT in layout.features
        self._used_event = _RING + 2 * self.size
        self._avail_event = (_RING + 8 * self.size) // 2
        self.position = position

    def next(self, tables: TableReader) -> Chain | None:
        """The chain at `position`; None where the driver is no further.

        Raises `BrokenRingError` and `BadChainError`.
        """
        (index,) = _WORD.unpack_from(self._available, _INDEX)
        position = self.position.available
        waiting = (index - position) & _WRAP
        if not waiting:
            return None
        if waiting > self.size:
            raise BrokenRingError(
                "take the next chain of a virtqueue",
                f"{waiting} are said to be available, of {self.size} descriptors",
            )
        (head,) = _WORD.unpack_from(self._available, _RING + 2 * (position % self.size))
        if head >= self.size:
            raise BrokenRingError(
                "take the next chain of a virtqueue",
                f"it begins at descriptor {head} of {self.size}",
            )
        return self._follow(head, tables)

    def _follow(self, head: int, tables: TableReader) -> Chain:
        chain = Chain(head, (), ())
        found = Following(chain)
        number = head
        for count in range(1, self.size + 1):
            gpa, length, flags, following = DESCRIPTOR.unpack_from(self._descriptors, SIZE * number)
            if flags & INDIRECT:
                if not self._has_tables:
                    raise BadChainError(chain, "a table of descriptors was not negotiated")
                if flags & NEXT:
                    raise BadChainError(chain, "it goes on behind a table of descriptors")
                self._follow_table(found, table_of(chain, gpa, length, tables))
                return found.whole(count)
            found.add(gpa, length, flags)
            if not flags & NEXT:
                return found.whole(count)
            number = following
            if number >= self.size:
                raise BadChainError(chain, f"it goes on at descriptor {number} of {self.size}")
        raise BadChainError(chain, "it has more descriptors than the ring")

    def _follow_table(self, found: Following, table: bytes) -> None:
        chain, count = found.chain, len(table) // SIZE
        number = 0
        for _ in range(count):
            gpa, length, flags, following = DESCRIPTOR.unpack_from(table, SIZE * number)
            found.add(gpa, length, flags)
            if not flags & NEXT:
                return
            number = following
            if number >= count:
                raise BadChainError(chain, f"its table goes on at descriptor {number} of {count}")
        raise BadChainError(chain, "it has more descriptors than its table")

    def pass_over(self, chain: Chain) -> None:  # noqa: ARG002
        """Have `next` look behind a chain."""
        available, used = self.position.available, self.position.used
        self.position = QueuePosition((available + 1) & _WRAP, used)

    def put_used(self, given: Sequence[tuple[Chain, int]]) -> None:
        """Give chains back, each with the number of bytes written.

        The index comes last: from then on the buffers are the driver's.
        """
        available, used = self.position.available, self.position.used
        for chain, written in given:
            _USED.pack_into(self._used, _RING + 8 * (used % self.size), chain.head, written)
            used = (used + 1) & _WRAP
        self._used_words[_INDEX_WORD] = used
        self.position = QueuePosition((available + len(given)) & _WRAP, used)

    def wants_interrupt(self, before: QueuePosition) -> bool:
        """Tell whether the driver wants to be told of what came after `before`."""
        if not self._has_events:
            flags: int = _WORD.unpack_from(self._available, 0)[0]
            return not flags & _NO_INTERRUPT
        (event,) = _WORD.unpack_from(self._available, self._used_event)
        new = self.position.used
        return (new - int(event) - 1) & _WRAP < (new - before.used) & _WRAP

    def ask_for_notifications(self, wanted: bool) -> None:
        """Ask the driver to notify of the next chain, or not to."""
        if not self._has_events:
            self._used_words[_FLAGS_WORD] = 0 if wanted else _NO_NOTIFY
        elif wanted:
            # One that is not moved asks for nothing: the driver has passed it.
            self._used_words[self._avail_event] = self.position.available

    def missed(self) -> bool:
        """Tell whether the driver waits for something that was given back already."""
        used = self.position.used
        return self.wants_interrupt(self.position._replace(used=(used - self.size) & _WRAP))
