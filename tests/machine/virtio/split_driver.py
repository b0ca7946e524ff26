# SPDX-License-Identifier: MIT
"""The driver of one split queue, good or bad, over `GuestPages`: places, and laying out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import DeviceStatus
from pyvmm.devices.virtio.rings import QueuePosition

from .guest_pages import PAGE, GuestPages

SIZE = 8
DESCRIPTORS, DRIVER, DEVICE = 0, PAGE, 2 * PAGE
TABLES, PRIVATE = 3 * PAGE, 6 * PAGE
TABLE_STRIDE = 256
"""Bytes between two tables of indirect descriptors."""
NEXT, WRITE, INDIRECT = 1, 2, 4

Descriptor = tuple[int, int, int]
"""GPA, length, flags but for NEXT."""


class Made(Protocol):
    """A chain of a driver's; the second descriptor of one may be said to be beyond the table."""

    @property
    def descriptors(self) -> tuple[Descriptor, ...]: ...

    @property
    def is_indirect(self) -> bool: ...

    @property
    def next_too_far(self) -> bool: ...


class Event(NamedTuple):
    """The driver's flags, and the index that it wants to be told of (with EVENT_INDEX)."""

    flags: int
    wanted: int


def bring_up(
    core: VirtioCore, pages: GuestPages, queue: int, features: int, start: int
) -> DeviceStatus:
    """Have a driver bring the device to DRIVER_OK, with one queue that is at `start`."""
    status = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER
    core.write_status(status)
    for word in range(2):
        core.acknowledge(word, features >> 32 * word & 0xFFFF_FFFF)
    status |= DeviceStatus.FEATURES_OK
    core.write_status(status)
    made = core.queue(queue)
    assert made is not None
    made.set_size(SIZE)
    for part, gpa in enumerate((DESCRIPTORS, DRIVER, DEVICE)):
        made.set_address(part, gpa)
    core.enable(queue)
    core.write_status(status | DeviceStatus.DRIVER_OK)
    core.move(queue, QueuePosition(start, start))
    for gpa in (DRIVER, DEVICE):
        pages.put(gpa, struct.pack("<HH", 0, start))
    return DeviceStatus(core.status)


def forget_notifications(pages: GuestPages) -> None:
    """Clear the device's flags and its event index: with a queue that is broken nobody reads them.

    So a device may have asked for notifications, or not, when it found that the queue is broken.
    """
    pages.put(DEVICE, bytes(2))
    pages.put(DEVICE + 4 + 8 * SIZE, bytes(2))


def make_available(
    pages: GuestPages, chains: Sequence[Made], start: int, event: Event, *, event_index: bool
) -> None:
    """Have a driver make chains available, each from its own descriptor on."""
    taken = 0
    for number, chain in enumerate(chains):
        count = len(chain.descriptors)
        table = TABLES + TABLE_STRIDE * number if chain.is_indirect else DESCRIPTORS + 16 * taken
        first = 0 if chain.is_indirect else taken
        for index, (gpa, length, flags) in enumerate(chain.descriptors):
            last = index == count - 1
            following = first + index + 1
            if chain.next_too_far and index == 0:
                last, following = False, 99
            kind = flags | (0 if last else NEXT)
            pages.put(table + 16 * index, struct.pack("<QIHH", gpa, length, kind, following))
        head = taken
        if chain.is_indirect:
            pages.put(
                DESCRIPTORS + 16 * taken, struct.pack("<QIHH", table, 16 * count, INDIRECT, 0)
            )
            count = 1
        taken += count
        slot = (start + number) % SIZE
        pages.put(DRIVER + 4 + 2 * slot, struct.pack("<H", head))
    pages.put(DRIVER, struct.pack("<HH", event.flags, start + len(chains) & 0xFFFF))
    if event_index:
        pages.put(DRIVER + 4 + 2 * SIZE, struct.pack("<H", event.wanted))


MOST_TABLES = 2
"""Tables of indirect descriptors that `lay_out` fills."""
ANY_BYTES = SIZE + 4 * SIZE * (1 + MOST_TABLES)
"""Bytes that `lay_out` takes."""


def lay_out(
    pages: GuestPages,
    data: bytes,
    places: Sequence[int],
    lengths: Sequence[int],
    *,
    count: int,
    flags: int,
    event_index: bool,
) -> None:
    """Lay what bytes say: the available ring, then descriptors, the ring's and those of tables."""
    heads, data = data[:SIZE], data[SIZE:]
    pages.put(DRIVER, struct.pack("<HH", flags & 1, count % (SIZE + 2)))
    pages.put(DRIVER + 4, b"".join(struct.pack("<H", head % (SIZE + 1)) for head in heads))
    if event_index:
        pages.put(DRIVER + 4 + 2 * SIZE, struct.pack("<H", flags >> 1))
    for number in range(SIZE * (1 + MOST_TABLES)):
        place, length, kind, following = data[4 * number : 4 * number + 4]
        table, index = divmod(number, SIZE)
        base = DESCRIPTORS if not table else TABLES + TABLE_STRIDE * (table - 1)
        gpa = places[place % len(places)]
        pages.put(
            base + 16 * index,
            struct.pack(
                "<QIHH", gpa, lengths[length % len(lengths)], kind % 8, following % (SIZE + 1)
            ),
        )
