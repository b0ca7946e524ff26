# SPDX-License-Identifier: MIT
"""A memory balloon (virtio 1.2, section 5.5): its configuration, what its queues carry. Pure.

Pages are of 4096 bytes whatever the guest's are. The guest's numbers are taken for nothing but
numbers: whoever gives pages back skips what is no memory.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.devices.virtio.saved import SavedBalloon

DEVICE_ID: Final = 5
QUEUE_SIZE: Final = 128
MOST_NUMBERS: Final = 1 << 14
"""Page numbers of a chain that are looked at: 64 MiB of guest memory; Linux gives 256."""
MOST_STATISTICS: Final = 64
_CONFIG: Final = struct.Struct("<II")
_ACTUAL: Final = 4
_WORD: Final = 0xFFFF_FFFF
_STATISTIC: Final = struct.Struct("<HQ")
_UNKNOWN: Final = (1 << 64) - 1
"""A value that the guest does not know."""


class BalloonFeature(enum.IntFlag):
    """Features of a balloon (5.5.3)."""

    STATISTICS = 1 << 1
    DEFLATE_ON_OOM = 1 << 2
    REPORTING = 1 << 5


class Role(enum.Enum):
    """Work of a queue."""

    INFLATE = "inflate"
    DEFLATE = "deflate"
    STATISTICS = "statistics"
    REPORTING = "reporting"


_OFFERED: Final = (
    BalloonFeature.STATISTICS | BalloonFeature.DEFLATE_ON_OOM | BalloonFeature.REPORTING
)
_NAMES: Final = (
    "swap-in", "swap-out", "major-faults", "minor-faults", "free-memory", "total-memory",
    "available-memory", "disk-caches", "htlb-pgalloc", "htlb-pgfail",
)  # fmt: skip
"""Statistics by their tags, as QEMU calls them."""


class BalloonModel:
    """A balloon's state: `target` and `actual` are pages; the queues by what the driver takes."""

    kind = DEVICE_ID
    features = int(_OFFERED)
    queue_sizes = (QUEUE_SIZE,) * len(Role)

    def __init__(self) -> None:
        self.target = 0
        """Pages that the guest is asked to give up."""
        self.actual = 0
        """Pages that it says it has given up."""
        self.accept(0)

    def config(self) -> bytes:
        """Both numbers."""
        return _CONFIG.pack(self.target, self.actual)

    def write_config(self, offset: int, data: bytes) -> None:
        """Take the driver's number, whole."""
        if (offset, len(data)) == (_ACTUAL, 4):
            self.actual = int.from_bytes(data, "little")

    def accept(self, features: int) -> bool:
        """Number the queues: those of features that the driver does not take are left out.

        As Linux does (virtio_balloon.c with vp_find_vqs); virtio 1.2 only says which exist.
        """
        roles = [Role.INFLATE, Role.DEFLATE]
        if features & BalloonFeature.STATISTICS:
            roles.append(Role.STATISTICS)
        if features & BalloonFeature.REPORTING:
            roles.append(Role.REPORTING)
        self._roles = tuple(roles)
        return True

    def role(self, queue: int) -> Role | None:
        """The work of a queue; None: none."""
        return self._roles[queue] if queue < len(self._roles) else None

    def reset(self) -> None:
        """The guest has all of its memory; the wish stays."""
        self.actual = 0
        self.accept(0)

    def save(self) -> SavedBalloon:
        """Both numbers."""
        from pyvmm.devices.virtio.saved import SavedBalloon  # Most devices are never saved.

        return SavedBalloon(self.target, self.actual)

    def restore(self, value: SavedBalloon) -> None:
        """Both numbers."""
        self.target, self.actual = value.target & _WORD, value.actual & _WORD


def page_ranges(buffers: Sequence[memoryview]) -> list[tuple[int, int]]:
    """The pages whose numbers a chain carries, as GPAs and lengths in bytes, adjacent ones joined.

    At most `MOST_NUMBERS` of them are looked at; half a number at the end is none.
    """
    room = 4 * MOST_NUMBERS
    parts: list[bytes] = []
    for buffer in buffers:
        parts.append(bytes(buffer[:room]))
        room -= len(parts[-1])
    numbers = b"".join(parts)
    found: list[tuple[int, int]] = []
    for (number,) in struct.iter_unpack("<I", numbers[: len(numbers) // 4 * 4]):
        gpa = number * PAGE_SIZE
        if found and sum(found[-1]) == gpa:
            found[-1] = found[-1][0], found[-1][1] + PAGE_SIZE
        elif found and found[-1][0] == gpa + PAGE_SIZE:  # Linux's come from the top down.
            found[-1] = gpa, found[-1][1] + PAGE_SIZE
        else:
            found.append((gpa, PAGE_SIZE))
    return found


def whole_pages(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The whole pages within each of `ranges`, GPAs and lengths in bytes."""
    for gpa, size in ranges:
        first, end = -(-gpa // PAGE_SIZE) * PAGE_SIZE, (gpa + size) // PAGE_SIZE * PAGE_SIZE
        if first < end:
            yield first, end - first


def statistics(buffers: Sequence[memoryview]) -> dict[str, int]:
    """The statistics that a chain carries, by name: bytes or counts. Unknown ones are left out."""
    room = _STATISTIC.size * MOST_STATISTICS
    data = b"".join(bytes(buffer[:room]) for buffer in buffers)[:room]
    whole = data[: len(data) // _STATISTIC.size * _STATISTIC.size]
    return {
        _NAMES[tag]: value
        for tag, value in _STATISTIC.iter_unpack(whole)
        if tag < len(_NAMES) and value != _UNKNOWN
    }
