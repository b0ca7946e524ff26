# SPDX-License-Identifier: MIT
"""Drivers' side of virtqueues, written from the specification's text (virtio 1.2, 2.7 and 2.8).

They work on `memory`, which is the guest's from GPA 0 on, and know nothing of the device's code but
the shape of a place: four numbers.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

NEXT, WRITE, INDIRECT = 1, 2, 4


class Place(NamedTuple):
    size: int
    descriptors: int
    driver: int
    device: int


class Element(NamedTuple):
    """One piece of a buffer."""

    gpa: int
    length: int
    writable: bool


class Used(NamedTuple):
    """A buffer that came back: as `add` named it, and the bytes written to it."""

    token: int
    written: int


class FullError(Exception):
    """There are not enough free descriptors."""


class Driver(Protocol):
    """What both kinds of ring have for a driver."""

    def add(self, elements: Sequence[Element], table: int | None = None) -> int:
        """Make a buffer available, by a table at a GPA or by descriptors of the ring: its token."""
        ...

    def must_notify(self) -> bool:
        """Whether the device wants to know of what was added since the last time of asking."""
        ...

    def collect(self) -> list[Used]:
        """Take back what is used."""
        ...

    def ask_for_interrupts(self, wanted: bool) -> None:
        """Have the device interrupt at the next used buffer, or not; then look once more."""
        ...


class SplitDriver:
    """A driver's side of a split ring (2.7)."""

    def __init__(self, memory: bytearray, place: Place, *, events: bool) -> None:
        self.memory = memory
        self.place = place
        self.events = events
        self.free = deque(range(place.size))
        self.chains: dict[int, list[int]] = {}
        self.tokens: dict[int, int] = {}
        self.count = 0
        self.index = self.told = self.seen = 0
        self.interrupts = True

    def put(self, gpa: int, layout: str, *values: int) -> None:
        struct.pack_into("<" + layout, self.memory, gpa, *values)

    def get(self, gpa: int) -> int:
        (value,) = struct.unpack_from("<H", self.memory, gpa)
        return int(value)

    def add(self, elements: Sequence[Element], table: int | None = None) -> int:
        """2.7.13: descriptors, then the ring's entry, then the index."""
        count = 1 if table is not None else len(elements)
        if len(self.free) < count:
            raise FullError
        numbers = [self.free.popleft() for _ in range(count)]
        rows = [(one.gpa, one.length, (WRITE if one.writable else 0)) for one in elements]
        if table is None:
            self._rows(self.place.descriptors, rows, numbers)
        else:
            self._rows(table, rows, list(range(len(rows))))
            self._rows(self.place.descriptors, [(table, 16 * len(rows), INDIRECT)], numbers)
        head = numbers[0]
        self.chains[head] = numbers
        self.tokens[head] = self.count
        self.count += 1
        size = self.place.size
        self.put(self.place.driver + 4 + 2 * (self.index % size), "H", head)
        self.index = (self.index + 1) & 0xFFFF
        self.put(self.place.driver + 2, "H", self.index)
        return self.count - 1

    def _rows(self, base: int, rows: list[tuple[int, int, int]], numbers: list[int]) -> None:
        for at, (gpa, length, flags) in enumerate(rows):
            last = at == len(rows) - 1
            following = 0 if last else numbers[at + 1]
            bits = flags | (0 if last else NEXT)
            self.put(base + 16 * numbers[at], "QIHH", gpa, length, bits, following)

    def must_notify(self) -> bool:
        """2.7.10: by the flag, or when the index has passed avail_event."""
        old, self.told = self.told, self.index
        if not self.events:
            return not self.get(self.place.device) & 1
        event = self.get(self.place.device + 4 + 8 * self.place.size)
        return (self.index - event - 1) & 0xFFFF < (self.index - old) & 0xFFFF

    def collect(self) -> list[Used]:
        """2.7.14: entries up to the used index."""
        found = []
        while self.seen != self.get(self.place.device + 2):
            at = self.place.device + 4 + 8 * (self.seen % self.place.size)
            head, written = struct.unpack_from("<II", self.memory, at)
            self.seen = (self.seen + 1) & 0xFFFF
            self.free.extend(self.chains.pop(head))
            found.append(Used(self.tokens.pop(head), written))
        if self.events and self.interrupts:
            self._put_used_event()
        return found

    def _put_used_event(self) -> None:
        self.put(self.place.driver + 4 + 2 * self.place.size, "H", self.seen)

    def ask_for_interrupts(self, wanted: bool) -> None:
        """2.7.7."""
        self.interrupts = wanted
        if not self.events:
            self.put(self.place.driver, "H", 0 if wanted else 1)
        elif wanted:
            self._put_used_event()
        else:
            # As far away as can be.
            at = (self.seen + 0x8000) & 0xFFFF
            self.put(self.place.driver + 4 + 2 * self.place.size, "H", at)


class PackedDriver:
    """A driver's side of a packed ring (2.8)."""

    def __init__(self, memory: bytearray, place: Place, *, events: bool) -> None:
        self.memory = memory
        self.place = place
        self.events = events
        self.available, self.wrap = 0, True
        self.used, self.used_wrap = 0, True
        self.free = place.size
        self.ids = deque(range(place.size))
        self.sizes: dict[int, int] = {}
        self.tokens: dict[int, int] = {}
        self.count = 0
        self.added = 0

    def add(self, elements: Sequence[Element], table: int | None = None) -> int:
        """2.8.21: descriptors, the flags of the first one last of all."""
        rows = [(one.gpa, one.length, WRITE if one.writable else 0) for one in elements]
        if table is not None:
            for at, (gpa, length, flags) in enumerate(rows):
                # All but WRITE is reserved there, and ignored.
                struct.pack_into(
                    "<QIHH", self.memory, table + 16 * at, gpa, length, 0xEEEE, flags | NEXT
                )
            rows = [(table, 16 * len(rows), INDIRECT)]
        if self.free < len(rows):
            raise FullError
        ident = self.ids.popleft()
        first: tuple[int, int] | None = None
        for at, (gpa, length, flags) in enumerate(rows):
            bits = flags | (NEXT if at < len(rows) - 1 else 0)
            bits |= 1 << 7 if self.wrap else 1 << 15
            base = self.place.descriptors + 16 * self.available
            struct.pack_into("<QIH", self.memory, base, gpa, length, ident)
            if first is None:
                first = base, bits
            else:
                struct.pack_into("<H", self.memory, base + 14, bits)
            self.available += 1
            if self.available == self.place.size:
                self.available, self.wrap = 0, not self.wrap
        assert first is not None
        struct.pack_into("<H", self.memory, first[0] + 14, first[1])
        self.free -= len(rows)
        self.added += len(rows)
        self.sizes[ident] = len(rows)
        self.tokens[ident] = self.count
        self.count += 1
        return self.count - 1

    def must_notify(self) -> bool:
        """2.8.14: ENABLE, DISABLE, or when the descriptor of the event was made available."""
        added, self.added = self.added, 0
        event, flags = struct.unpack_from("<HH", self.memory, self.place.device)
        if flags != 2 or not self.events:
            return bool(flags == 0)
        # Walk back over what was added.
        number, wrap = self.available, self.wrap
        for _ in range(added):
            if number == 0:
                number, wrap = self.place.size, not wrap
            number -= 1
            if (number, wrap) == (event & 0x7FFF, bool(event & 0x8000)):
                return True
        return False

    def collect(self) -> list[Used]:
        """2.8.22: descriptors whose two bits are as the counter."""
        found: list[Used] = []
        while True:
            base = self.place.descriptors + 16 * self.used
            _, length, ident, flags = struct.unpack_from("<QIHH", self.memory, base)
            if not bool(flags & 1 << 7) == bool(flags & 1 << 15) == self.used_wrap:
                return found
            size = self.sizes.pop(ident)
            self.used += size
            if self.used >= self.place.size:
                self.used, self.used_wrap = self.used - self.place.size, not self.used_wrap
            self.free += size
            self.ids.append(ident)
            found.append(Used(self.tokens.pop(ident), length if flags & WRITE else 0))

    def ask_for_interrupts(self, wanted: bool) -> None:
        """2.8.10."""
        event, flags = 0, 0
        if not wanted:
            flags = 1
        elif self.events:
            event, flags = self.used | (0x8000 if self.used_wrap else 0), 2
        struct.pack_into("<HH", self.memory, self.place.driver, event, flags)


def driver_of(
    memory: bytearray, place: Place, *, packed: bool, events: bool
) -> SplitDriver | PackedDriver:
    """A driver of one kind or the other; what it negotiated is the caller's business."""
    return (PackedDriver if packed else SplitDriver)(memory, place, events=events)
