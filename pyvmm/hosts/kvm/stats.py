# SPDX-License-Identifier: MIT
"""Statistics of a VM or vCPU: the file that KVM_GET_STATS_FD gives (api.rst 4.133)."""

from __future__ import annotations

import enum
import os
import struct
from dataclasses import dataclass

from pyvmm.errors import InternalError
from pyvmm.hosts.kvm.binding import refused
from pyvmm.hosts.kvm.ownership import FdOwner

_HEADER = struct.Struct("<6I")
_DESCRIPTOR = struct.Struct("<IhHII")


class StatKind(enum.IntEnum):
    """Kind of a statistic (bits 0..3 of the descriptor's flags)."""

    CUMULATIVE = 0
    INSTANT = 1
    PEAK = 2
    LINEAR_HISTOGRAM = 3
    LOGARITHMIC_HISTOGRAM = 4


class StatUnit(enum.IntEnum):
    """Unit of a statistic (bits 4..7)."""

    NONE = 0
    BYTES = 1
    SECONDS = 2
    CYCLES = 3
    BOOLEAN = 4


class StatBase(enum.IntEnum):
    """Base of the exponent (bits 8..11)."""

    POW10 = 10
    POW2 = 2


_BASES = (StatBase.POW10, StatBase.POW2)


@dataclass(frozen=True, slots=True)
class StatDescriptor:
    """One statistic: `count` 64-bit values from `offset`, a byte offset within the data block.

    A value counts in `unit` times `base` to the `exponent`; `bucket_size` is that of a linear
    histogram. `kind` and `unit` are bare numbers where a newer kernel has more of them.
    """

    name: str
    kind: StatKind | int
    unit: StatUnit | int
    base: StatBase
    exponent: int
    count: int
    offset: int
    bucket_size: int


@dataclass(frozen=True, slots=True)
class Statistic:
    """A descriptor with the values read."""

    descriptor: StatDescriptor
    values: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StatsLayout:
    """The unchanging part of the file: `ident` says whose it is, `data_offset` in bytes."""

    ident: str
    data_offset: int
    descriptors: tuple[StatDescriptor, ...]

    @property
    def data_size(self) -> int:
        """Bytes of the data block up to the last value's end."""
        return max((one.offset + 8 * one.count for one in self.descriptors), default=0)


def _member(kinds: type[StatKind] | type[StatUnit], number: int) -> int:
    try:
        return kinds(number)
    except ValueError:
        return number


def _text(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("ascii", "replace")


def parse_layout(content: bytes) -> StatsLayout:
    """The header, identity and descriptors at the beginning of the file.

    Raises `InternalError` where they do not fit `content` or contradict each other.
    """
    attempt = "read KVM's statistics"
    if len(content) < _HEADER.size:
        raise InternalError(attempt, f"a header of {len(content)} bytes")
    _flags, name_size, count, id_offset, desc_offset, data_offset = _HEADER.unpack_from(content)
    step = _DESCRIPTOR.size + name_size
    if desc_offset + count * step > len(content) or id_offset + name_size > len(content):
        raise InternalError(attempt, "the descriptors lie beyond the file's beginning")
    descriptors: list[StatDescriptor] = []
    for start in range(desc_offset, desc_offset + count * step, step):
        flags, exponent, values, offset, bucket = _DESCRIPTOR.unpack_from(content, start)
        name_start = start + _DESCRIPTOR.size
        base = flags >> 8 & 0xF
        if base >= len(_BASES):
            raise InternalError(attempt, f"an unknown base, {base}")
        descriptors.append(
            StatDescriptor(
                name=_text(content[name_start : name_start + name_size]),
                kind=_member(StatKind, flags & 0xF),
                unit=_member(StatUnit, flags >> 4 & 0xF),
                base=_BASES[base],
                exponent=exponent,
                count=values,
                offset=offset,
                bucket_size=bucket,
            )
        )
    ident = _text(content[id_offset : id_offset + name_size])
    return StatsLayout(ident, data_offset, tuple(descriptors))


def parse_data(layout: StatsLayout, data: bytes) -> tuple[Statistic, ...]:
    """The values in the data block. Raises `InternalError` where it is too short."""
    if len(data) < layout.data_size:
        raise InternalError(
            "read KVM's statistics", f"{len(data)} bytes of data, not {layout.data_size}"
        )
    return tuple(
        Statistic(one, struct.unpack_from(f"<{one.count}Q", data, one.offset))
        for one in layout.descriptors
    )


class Stats(FdOwner):
    """The statistics of one VM or vCPU; what it belongs to may be closed before it."""

    def __init__(self, fd: int) -> None:
        """Own `fd`. Raises `SystemCallError`, `InternalError`."""
        super().__init__(fd)
        try:
            self.layout = self._read_layout()
        except BaseException:
            self.close()
            raise

    def _read_layout(self) -> StatsLayout:
        header = self._pread(_HEADER.size, 0)
        if len(header) < _HEADER.size:
            raise InternalError("read KVM's statistics", "the file is too short")
        _flags, name_size, count, id_offset, desc_offset, _data = _HEADER.unpack(header)
        end = max(desc_offset + count * (_DESCRIPTOR.size + name_size), id_offset + name_size)
        return parse_layout(self._pread(end, 0))

    def _pread(self, size: int, offset: int) -> bytes:
        try:
            return os.pread(self.fd, size, offset)
        except OSError as error:
            attempt = f"read the statistics of KVM at fd {self.fd}"
            raise refused(error.errno or 0, attempt) from error

    def read(self) -> tuple[Statistic, ...]:
        """All of them, now. Raises `SystemCallError`."""
        data = self._pread(self.layout.data_size, self.layout.data_offset)
        return parse_data(self.layout, data)
