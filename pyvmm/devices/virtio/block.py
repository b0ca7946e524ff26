# SPDX-License-Identifier: MIT
"""Requests of a virtio block device (virtio 1.2, section 5.2), on views of the guest's buffers."""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

DEVICE_ID: Final = 2
SECTOR: Final = 512
"""Bytes of a sector, whatever the store's are."""
FEATURE_READ_ONLY: Final = 1 << 5
FEATURE_FLUSH: Final = 1 << 9
ID_SIZE: Final = 20
_HEADER: Final = struct.Struct("<IIQ")


class RequestKind(enum.IntEnum):
    """Requests that are served; every other one is unsupported."""

    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8


class Status(enum.IntEnum):
    """Last byte of a request."""

    OK = 0
    IO_ERROR = 1
    UNSUPPORTED = 2


def config_space(size: int) -> bytes:
    """Bytes of the device's configuration: the capacity in sectors; all else is not offered."""
    return (size // SECTOR).to_bytes(8, "little").ljust(0x40, b"\0")


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """A request, its header copied. `offset` is in bytes; `data` are the guest's own buffers.

    `kind` is None for one that is not known. `refusal` says why nothing is to be done.
    """

    kind: RequestKind | None
    offset: int
    data: tuple[memoryview, ...]
    status: memoryview
    refusal: Status | None

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
    # A copy: the guest may write the header while it is looked at.
    number, _, sector = _HEADER.unpack(header)
    last = writable[-1]
    status = last[-1:]
    to_write = (*writable[:-1], *([last[:-1]] if len(last) > 1 else []))
    kind = RequestKind(number) if number in RequestKind.__members__.values() else None
    data = to_read if kind is RequestKind.OUT else to_write
    request = BlockRequest(kind, sector * SECTOR, data, status, None)
    refusal = _refusal(request, capacity)
    if read_only and kind is RequestKind.OUT:
        refusal = Status.IO_ERROR
    return BlockRequest(kind, sector * SECTOR, data, status, refusal)


def _split(views: Sequence[memoryview], size: int) -> tuple[bytes, tuple[memoryview, ...]]:
    """The first `size` bytes, copied, and the rest."""
    head, rest = b"", []
    for view in views:
        taken = min(size - len(head), len(view))
        head += bytes(view[:taken])
        if taken < len(view):
            rest.append(view[taken:])
    return head, tuple(rest)


def _refusal(request: BlockRequest, capacity: int) -> Status | None:
    if request.kind is None:
        return Status.UNSUPPORTED
    if request.kind in (RequestKind.IN, RequestKind.OUT):
        size = request.size
        if not size or size % SECTOR or request.offset + size > capacity:
            return Status.IO_ERROR
    return None
