# SPDX-License-Identifier: MIT
"""Memory that the kernel holds for a VM's pages, asked of mappings and files at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pyvmm.errors import PyvmmError
from pyvmm.experiment import Guest
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.shell.watch import Watch, WatchedSlot


class HeldMemory:
    """Counts resident bytes by those of `objects` that are mappings, guest_memfds or guests.

    All others are passed over; of memory that none of them is about nothing is told.
    """

    def __init__(self, objects: Iterable[object], watch: Watch) -> None:
        self._watch = watch
        self._mappings: list[Any] = []
        self._files: dict[int, Any] = {}
        for one in _with_those_of_guests(objects):
            kind = type(one)
            if hasattr(kind, "hva") and hasattr(kind, "resident"):
                self._mappings.append(one)
            elif hasattr(kind, "punch_hole") and hasattr(one, "fd"):
                self._files[one.fd] = one

    def __call__(self, slot: WatchedSlot, side: Side, range_: GpaRange) -> int | None:
        """Bytes of `range_`, of `slot`, that the kernel holds for `side`; None: nobody can tell."""
        offset = range_.start - slot.range.start
        self._watch.asleep = True
        try:
            for found in self._counts(slot, side, offset, range_.size):
                return found
        finally:
            self._watch.asleep = False
        return None

    def _counts(self, slot: WatchedSlot, side: Side, offset: int, size: int) -> Iterator[int]:
        file = self._files.get(slot.fd)
        if file is not None and (side is Side.PRIVATE or len(slot.sides) == 1):
            yield from _count(file, slot.offset + offset, size)
        if side is Side.PRIVATE:
            return
        start = slot.hva + offset
        for mapping in self._mappings:
            if mapping.hva and mapping.hva <= start and start + size <= mapping.hva + mapping.size:
                yield from _count(mapping, start - mapping.hva, size)


def _with_those_of_guests(objects: Iterable[object]) -> Iterator[object]:
    for one in objects:
        yield one
        if isinstance(one, Guest):
            yield one.memory
            yield one.guest_memfd


def _count(whose: Any, offset: int, size: int) -> Iterator[int]:
    try:
        found: int = whose.resident(offset, size)
    except PyvmmError:
        return  # Closed, or a kernel that does not tell.
    yield found
