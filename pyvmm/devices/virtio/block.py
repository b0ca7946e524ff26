# SPDX-License-Identifier: MIT
"""A virtio block device (virtio 1.2, section 5.2): its configuration, and its requests.

Requests are taken apart on views of the guest's buffers, which the guest may write meanwhile: what
is decided on is copied first.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pyvmm.devices.virtio.saved import SavedBlock

DEVICE_ID: Final = 2
SECTOR: Final = 512
"""Bytes of a sector, whatever the store's are."""
ID_SIZE: Final = 20
QUEUE_SIZE: Final = 256
MOST_QUEUES: Final = 16
MOST_SEGMENTS: Final = 32
"""Most segments of a request to discard. One to write zeroes has one."""
MOST_DISCARDED: Final = 1 << 22
"""Most sectors of a segment to discard."""
MOST_ZEROED: Final = 1 << 17
"""Most sectors to write zeroes to: 64 MiB, which some stores write one by one."""
_HEADER: Final = struct.Struct("<IIQ")
_SEGMENT: Final = struct.Struct("<QII")
_CONFIG: Final = struct.Struct("<QIIHBBIBBHIBxHIIIIIBxxx")
_WRITEBACK: Final = 32
"""Offset of the byte of the configuration that a driver may write."""
_UNMAP: Final = 1
_PHYSICAL_EXPONENT: Final = 3
"""A physical block has 8 sectors, as a host's page has."""


class BlockFeature(enum.IntFlag):
    """Features of a block device (5.2.3)."""

    SEG_MAX = 1 << 2
    READ_ONLY = 1 << 5
    BLOCK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    QUEUES = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


class RequestKind(enum.IntEnum):
    """Requests that are served; every other one is unsupported."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class Status(enum.IntEnum):
    """Last byte of a request."""

    OK = 0
    IO_ERROR = 1
    UNSUPPORTED = 2


_KINDS: Final = {int(kind): kind for kind in RequestKind}
_TO_READ: Final = frozenset({RequestKind.OUT, RequestKind.DISCARD, RequestKind.WRITE_ZEROES})
"""Kinds whose data are the device's to read; of all others, to write."""


class Segment(NamedTuple):
    """Part of a disk to be discarded or zeroed: offset and length in bytes."""

    offset: int
    length: int
    unmap: bool


class BlockModel:
    """A `DeviceModel` of a disk of `capacity` bytes.

    `is_writeback`: a write may be done before it outlives a crash of the host. A driver that does
    not take FLUSH could never ask for that, and so has it false (5.2.6.2).
    """

    kind: int = DEVICE_ID

    def __init__(self, capacity: int, *, read_only: bool = False, queues: int = 1) -> None:
        self.capacity = capacity
        self.read_only = read_only
        self.queue_sizes: tuple[int, ...] = (QUEUE_SIZE,) * queues
        self.features = int(_features(read_only=read_only, queues=queues))
        self.is_writeback = True
        self.durable_changes: list[Callable[[bool], None]] = []
        """Functions that are told whether writes are to outlive a crash when they are done."""

    def _write_back(self, value: bool) -> None:
        self.is_writeback = value
        for tell in self.durable_changes:
            tell(not value)

    def config(self) -> bytes:
        """The configuration: 60 bytes, those of a device that erases nothing securely."""
        writes = not self.read_only
        return _CONFIG.pack(
            self.capacity // SECTOR,
            0, QUEUE_SIZE - 2,  # A header and a status are in the queue, too.
            0, 0, 0, SECTOR,
            _PHYSICAL_EXPONENT, 0, 1 << _PHYSICAL_EXPONENT, 0,
            self.is_writeback, len(self.queue_sizes),
            writes * MOST_DISCARDED, writes * MOST_SEGMENTS, 1 << _PHYSICAL_EXPONENT,
            writes * MOST_ZEROED, writes, writes,
        )  # fmt: skip

    def write_config(self, offset: int, data: bytes) -> None:
        """Take the writeback byte, which is all that a driver may write."""
        if offset == _WRITEBACK and len(data) == 1:
            self._write_back(bool(data[0] & 1))

    def accept(self, features: int) -> bool:
        """Take any of what is offered."""
        self._write_back(bool(features & BlockFeature.FLUSH))
        return True

    def reset(self) -> None:
        """Be as made."""
        self._write_back(True)

    def save(self) -> SavedBlock:
        """Save what the driver has set."""
        from pyvmm.devices.virtio.saved import SavedBlock

        return SavedBlock(self.is_writeback)

    def restore(self, value: SavedBlock) -> None:
        """Be as saved."""
        self._write_back(value.writeback)


def _features(*, read_only: bool, queues: int) -> BlockFeature:
    offered = BlockFeature.SEG_MAX | BlockFeature.BLOCK_SIZE | BlockFeature.TOPOLOGY
    offered |= BlockFeature.FLUSH | BlockFeature.CONFIG_WCE
    if read_only:
        offered |= BlockFeature.READ_ONLY
    else:
        offered |= BlockFeature.DISCARD | BlockFeature.WRITE_ZEROES
    if queues > 1:
        offered |= BlockFeature.QUEUES
    return offered


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """A request, its header and its segments copied.

    `offset` is in bytes; `data` are the guest's own buffers. `kind` is None for one that is not
    known. `refusal` says why nothing is to be done.
    """

    kind: RequestKind | None
    offset: int
    data: tuple[memoryview, ...]
    status: memoryview
    refusal: Status | None = None
    segments: tuple[Segment, ...] = ()

    @property
    def size(self) -> int:
        """Length of the data in bytes."""
        return sum(map(len, self.data))

    def put(self, serial: bytes) -> None:
        """Write the answer to GET_ID: 20 bytes, padded with zeroes, as far as there is room."""
        rest = serial[:ID_SIZE].ljust(max(self.size, ID_SIZE), b"\0")
        for view in self.data:
            view[:], rest = rest[: len(view)], rest[len(view) :]

    def finish(self, status: Status) -> int:
        """Write the status. Return the bytes written from the first writable one on."""
        self.status[0] = status
        if self.kind in (RequestKind.IN, RequestKind.GET_ID):
            return self.size + 1 if status is Status.OK else 0
        return 1


def parse(
    readable: Sequence[memoryview],
    writable: Sequence[memoryview],
    capacity: int,
    *,
    read_only: bool = False,
) -> BlockRequest | None:
    """Take a request apart, however it is cut into buffers; None where it has no header or status.

    `capacity` of the store in bytes.
    """
    header, to_read = _split(readable, _HEADER.size)
    if len(header) < _HEADER.size or not writable:
        return None
    number, _, sector = _HEADER.unpack(header)
    last = writable[-1]
    status = last[-1:]
    kind = _KINDS.get(number)
    offset = sector * SECTOR
    if kind is None:
        return BlockRequest(None, offset, (), status, Status.UNSUPPORTED)
    if kind not in _TO_READ:
        data = (*writable[:-1], *([last[:-1]] if len(last) > 1 else []))
    else:
        data = to_read
        if read_only:
            return BlockRequest(kind, offset, data, status, Status.IO_ERROR)
    if kind in (RequestKind.DISCARD, RequestKind.WRITE_ZEROES):
        return _of_segments(kind, data, status, capacity)
    refusal = None
    if kind in (RequestKind.IN, RequestKind.OUT):
        size = sum(map(len, data))
        if not size or size % SECTOR or offset + size > capacity:
            refusal = Status.IO_ERROR
    return BlockRequest(kind, offset, data, status, refusal)


def _split(views: Sequence[memoryview], size: int) -> tuple[bytes, tuple[memoryview, ...]]:
    """The first `size` bytes, copied, and the rest."""
    head, rest = b"", []
    for view in views:
        taken = min(size - len(head), len(view))
        head += bytes(view[:taken])
        if taken < len(view):
            rest.append(view[taken:])
    return head, tuple(rest)


def _of_segments(
    kind: RequestKind, data: tuple[memoryview, ...], status: memoryview, capacity: int
) -> BlockRequest:
    """Take a request apart whose data are segments, all of which are looked at before any is done.

    A flag that is not known is UNSUPPORTED, as is to unmap what is discarded anyway (5.2.6.2).
    """
    most = MOST_SEGMENTS if kind is RequestKind.DISCARD else 1
    table, rest = _split(data, most * _SEGMENT.size)
    segments: list[Segment] = []
    refusal = None
    if rest or not table or len(table) % _SEGMENT.size:
        refusal = Status.IO_ERROR
    else:
        known = 0 if kind is RequestKind.DISCARD else _UNMAP
        for segment, flags, fits in _segments(kind, table, capacity):
            if flags & ~known:
                refusal = Status.UNSUPPORTED
                break
            if not fits:
                refusal = Status.IO_ERROR
            segments.append(segment)
    return BlockRequest(kind, 0, data, status, refusal, () if refusal else tuple(segments))


def _segments(
    kind: RequestKind, table: bytes, capacity: int
) -> Iterator[tuple[Segment, int, bool]]:
    """Each segment, its flags, and whether it lies on the disk and is no longer than allowed."""
    most = MOST_DISCARDED if kind is RequestKind.DISCARD else MOST_ZEROED
    for sector, count, flags in _SEGMENT.iter_unpack(table):
        segment = Segment(sector * SECTOR, count * SECTOR, bool(flags & _UNMAP))
        yield segment, flags, count <= most and segment.offset + segment.length <= capacity
