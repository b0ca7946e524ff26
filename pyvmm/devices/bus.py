# SPDX-License-Identifier: MIT
"""The bus: which device answers at which address, for ports and for MMIO alike.

An access goes to a device whole if it lies within one device's range and is no wider than that
device takes. Every other access is split as an ISA bus splits what is wider than its devices:
into pieces in ascending order of address, each at most as wide as its device takes and naturally
aligned, down to single bytes (a 16-bit OUT to a 16550 writes two registers). The same happens to
the odd sizes that KVM makes of an MMIO access across a page boundary (3 bytes, say).

Where no device is, reads give all ones, as an undriven bus does, and writes are dropped; both are
counted.

Nothing here locks. Lookups may run in several threads next to an `add` or a `remove`; whether two
threads may be inside one device at once is for the caller to decide.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from pyvmm.errors import InternalError

UNCLAIMED_LIMIT: Final = 256
"""Largest number of different addresses that `Bus.unclaimed` lists."""

_FOUND_LIMIT: Final = 4096
"""Number of lookups remembered before all are forgotten: a guest may touch any address."""

_BYTES: Final = tuple(bytes((value,)) for value in range(256))


class Device(Protocol):
    """Something with registers. Offsets are bytes from the start of its range; values are little
    endian numbers of `size` bytes (1, 2, 4 or 8, at most the width it was added with).

    A guest can provoke any access, so neither method raises for a register that does not exist.
    """

    def read(self, offset: int, size: int) -> int:
        """The value at `offset`: 0 <= value < 1 << 8 * size."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Take `value`, which fits `size` bytes."""
        ...


@dataclass(frozen=True, slots=True)
class BusRange:
    """A device's place on a bus: [start, start + length), accesses of up to `width` bytes."""

    start: int
    length: int
    width: int
    name: str
    device: Device

    @property
    def end(self) -> int:
        """The first address after the range."""
        return self.start + self.length

    def __str__(self) -> str:
        return f"{self.name} at [{self.start:#x}, {self.end:#x})"


class BusRangeError(InternalError):
    """A range that cannot be on this bus, or is not on it."""


class BusOverlapError(BusRangeError):
    """Two devices would answer at one address: `added` is the new one, `present` the old one."""

    def __init__(self, bus: str, added: BusRange, present: BusRange) -> None:
        super().__init__(
            f"put {added} on the {bus} bus", f"it overlaps {present}", "move one of the two"
        )
        # What pickle and copy rebuild an exception from.
        self.args = (bus, added, present)
        self.added = added
        self.present = present


_Read = Callable[[int, int], int]
_Write = Callable[[int, int, int], None]

# How accesses at one address go: the device's methods, the offset to hand them, and the size of
# the widest access that goes whole. A tuple, because unpacking one is what the per-exit path costs.
Route = tuple[_Read, _Write, int, int]


class Bus:
    """An address space of `size` bytes with devices in it; `name` is for messages ("port")."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self._ranges: tuple[BusRange, ...] = ()
        self._found: dict[int, Route] = {}
        self._unclaimed: dict[int, int] = {}
        self._unclaimed_elsewhere = 0
        self.on_route: Callable[[int, Route], Route] | None = None
        """Hook by which an observer of accesses replaces the route of an address: called before the
        first access to it, and again when a device is added or removed, or many addresses are in
        use."""

    @property
    def ranges(self) -> tuple[BusRange, ...]:
        """Every device, in order of address."""
        return self._ranges

    @property
    def unclaimed(self) -> Mapping[int, int]:
        """Accesses that no device answered: address to count, at most `UNCLAIMED_LIMIT` addresses.

        A live view. What a guest does at further addresses is in `unclaimed_elsewhere`.
        """
        return MappingProxyType(self._unclaimed)

    @property
    def unclaimed_elsewhere(self) -> int:
        """Accesses that no device answered, at addresses that `unclaimed` had no place for."""
        return self._unclaimed_elsewhere

    def add(
        self, start: int, length: int, device: Device, name: str, *, width: int = 1
    ) -> BusRange:
        """Put `device` at [start, start + length), taking accesses of up to `width` bytes whole.

        Raises `BusOverlapError`, or `BusRangeError` where the range is not in the address space.
        """
        added = BusRange(start, length, width, name, device)
        if start < 0 or length <= 0 or added.end > self.size or width not in (1, 2, 4, 8):
            raise BusRangeError(
                f"put {added} on the {self.name} bus",
                f"a range is at least one byte within [0, {self.size:#x}), of width 1, 2, 4 or 8",
            )
        for present in self._ranges:
            if start < present.end and present.start < added.end:
                raise BusOverlapError(self.name, added, present)
        self._replace((*self._ranges, added))
        return added

    def remove(self, gone: BusRange) -> None:
        """Take away what `add` returned. Raises `BusRangeError` if it is not there."""
        if gone not in self._ranges:
            raise BusRangeError(f"take {gone} off the {self.name} bus", "it is not on it")
        self._replace(tuple(present for present in self._ranges if present != gone))

    def find(self, address: int) -> BusRange | None:
        """The range that `address` lies in."""
        ranges = self._ranges
        index = bisect_right(ranges, address, key=_start) - 1
        if index >= 0 and address < ranges[index].end:
            return ranges[index]
        return None

    def read(self, address: int, size: int) -> int:
        """Read for the guest: `size` bytes (1..8) at `address` as a little endian number."""
        read, _, offset, widest = self._found.get(address) or self._find_route(address)
        if size <= widest and not size & (size - 1):
            return read(offset, size)
        value = 0
        done = 0
        while done < size:
            read, _, offset, widest = self._route(address + done)
            piece = _piece(address + done, size - done, widest)
            value |= read(offset, piece) << 8 * done
            done += piece
        return value

    def write(self, address: int, size: int, value: int) -> None:
        """A guest's write of `size` bytes (1..8): `value` is a little endian number."""
        _, write, offset, widest = self._found.get(address) or self._find_route(address)
        if size <= widest and not size & (size - 1):
            write(offset, size, value)
            return
        done = 0
        while done < size:
            _, write, offset, widest = self._route(address + done)
            piece = _piece(address + done, size - done, widest)
            write(offset, piece, value >> 8 * done & (1 << 8 * piece) - 1)
            done += piece

    def handle_out(self, port: int, size: int, count: int, data: bytes) -> None:
        """OUT or REP OUTS: `data` is `count` values of `size` bytes, all for the same `port`."""
        if size == 1:
            # One byte always goes whole.
            _, write, offset, _ = self._found.get(port) or self._find_route(port)
            for value in data:
                write(offset, 1, value)
        elif count == 1:
            self.write(port, size, int.from_bytes(data, "little"))
        else:
            for at in range(0, size * count, size):
                self.write(port, size, int.from_bytes(data[at : at + size], "little"))

    def handle_in(self, port: int, size: int, count: int) -> bytes:
        """IN or REP INS: `count` values of `size` bytes, read one after the other at `port`."""
        if count == 1:
            if size == 1:
                # Spares a call on the way of most exits.
                read, _, offset, _ = self._found.get(port) or self._find_route(port)
                return _BYTES[read(offset, 1)]
            return self.read(port, size).to_bytes(size, "little")
        return b"".join([self.read(port, size).to_bytes(size, "little") for _ in range(count)])

    def _replace(self, ranges: tuple[BusRange, ...]) -> None:
        # The ranges first: a lookup in another thread that already sees the new, empty memory must
        # not fill it from the old ranges.
        self._ranges = tuple(sorted(ranges, key=_start))
        self._found = {}

    def _route(self, address: int) -> Route:
        return self._found.get(address) or self._find_route(address)

    def _find_route(self, address: int) -> Route:
        found = self._found
        ranges = self._ranges
        index = bisect_right(ranges, address, key=_start) - 1
        route: Route
        if index >= 0 and address < ranges[index].end:
            hit = ranges[index]
            widest = min(hit.width, hit.end - address)
            route = (hit.device.read, hit.device.write, address - hit.start, widest)
        else:
            gap_end = ranges[index + 1].start if index + 1 < len(ranges) else address + 8
            route = (self._read_unclaimed, self._write_unclaimed, address, gap_end - address)
        if self.on_route is not None:
            route = self.on_route(address, route)
        if len(found) >= _FOUND_LIMIT:
            found.clear()
        found[address] = route
        return route

    def _read_unclaimed(self, address: int, size: int) -> int:
        self._count_unclaimed(address)
        return (1 << 8 * size) - 1

    def _write_unclaimed(self, address: int, _size: int, _value: int) -> None:
        self._count_unclaimed(address)

    def _count_unclaimed(self, address: int) -> None:
        unclaimed = self._unclaimed
        if address in unclaimed or len(unclaimed) < UNCLAIMED_LIMIT:
            unclaimed[address] = unclaimed.get(address, 0) + 1
        else:
            self._unclaimed_elsewhere += 1


def _start(present: BusRange) -> int:
    return present.start


def _piece(address: int, left: int, widest: int) -> int:
    """The size of the next piece of a split access: a power of two, aligned, that fits."""
    piece = 8
    while piece > left or piece > widest or address % piece:
        piece //= 2
    return piece
