# SPDX-License-Identifier: MIT
"""The bus: which device answers at which address, for ports and for MMIO alike.

An access goes to a device whole if it lies within one device's range and is no wider than that
device takes. Every other access is split as an ISA bus splits what is wider than its devices:
into pieces in ascending order of address, each at most as wide as its device takes and naturally
aligned, down to single bytes (a 16-bit OUT to a 16550 writes two registers). The same happens to
the odd sizes that KVM makes of an MMIO access across a page boundary (3 bytes, say).

Where no device is, reads give all ones, as an undriven bus does, and writes are dropped; both are
counted.

A range may have a `Guard`, which is held around each access to its device; ranges that share one
are serialised together. A split access is as many accesses as it has pieces, each under the guard
of its own device. Lookups may run in several threads next to an `add` or a `remove`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final, NamedTuple

from pyvmm.devices.protocols import Guard, Registers
from pyvmm.errors import InternalError

UNCLAIMED_LIMIT: Final = 256
"""Largest number of different addresses that `Bus.unclaimed` lists."""

_FOUND_LIMIT: Final = 4096
"""Number of lookups remembered before all are forgotten: a guest may touch any address."""

_BYTES: Final = tuple(bytes((value,)) for value in range(256))


class BusRange(NamedTuple):
    """A device's place on a bus: [start, start + length), accesses of up to `width` bytes.

    `guard` is held around each access; None: the device needs none.
    """

    start: int
    length: int
    width: int
    name: str
    device: Registers
    guard: Guard | None = None

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

# How accesses at one address go: the device's methods, the offset to hand them, the size of the
# widest access that goes whole, and the guard to hold. A tuple, because unpacking one is what the
# per-exit path costs.
Route = tuple[_Read, _Write, int, int, Guard | None]


class Bus:
    """An address space of `size` bytes with devices in it; `name` is for messages ("port").

    `guard` is held while accesses that no device answers are counted.
    """

    def __init__(self, name: str, size: int, guard: Guard | None = None) -> None:
        self.name = name
        self.size = size
        self._guard = guard
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
        self,
        start: int,
        length: int,
        device: Registers,
        name: str,
        *,
        width: int = 1,
        guard: Guard | None = None,
    ) -> BusRange:
        """Put `device` at [start, start + length), taking accesses of up to `width` bytes whole.

        Raises `BusOverlapError`, or `BusRangeError` where the range is not in the address space.
        """
        added = BusRange(start, length, width, name, device, guard)
        self.add_all((added,))
        return added

    def add_all(self, ranges: Iterable[BusRange]) -> None:
        """Put several devices in their places at once, or none of them. Raises as `add`."""
        added = tuple(ranges)
        for one in added:
            inside = one.start >= 0 and one.length > 0 and one.end <= self.size
            if not inside or one.width not in (1, 2, 4, 8):
                raise BusRangeError(
                    f"put {one} on the {self.name} bus",
                    f"a range is at least one byte within [0, {self.size:#x}), "
                    "of width 1, 2, 4 or 8",
                )
        # Sorting is stable: of two that begin together, the one that was there is the first.
        ordered = sorted((*self._ranges, *added), key=_start)
        for one, other in pairwise(ordered):
            if other.start < one.end:
                newcomer, present = (one, other) if other in self._ranges else (other, one)
                raise BusOverlapError(self.name, newcomer, present)
        self._replace(tuple(ordered))

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
        route = self._found.get(address) or self._find_route(address)
        if size <= route[3] and not size & (size - 1):
            return _read_whole(route, size)
        value = 0
        done = 0
        while done < size:
            route = self._found.get(address + done) or self._find_route(address + done)
            piece = _piece(address + done, size - done, route[3])
            value |= _read_whole(route, piece) << 8 * done
            done += piece
        return value

    def write(self, address: int, size: int, value: int) -> None:
        """A guest's write of `size` bytes (1..8): `value` is a little endian number."""
        route = self._found.get(address) or self._find_route(address)
        if size <= route[3] and not size & (size - 1):
            _write_whole(route, size, value)
            return
        done = 0
        while done < size:
            route = self._found.get(address + done) or self._find_route(address + done)
            piece = _piece(address + done, size - done, route[3])
            _write_whole(route, piece, value >> 8 * done & (1 << 8 * piece) - 1)
            done += piece

    def handle_out(self, port: int, size: int, count: int, data: bytes) -> None:
        """OUT or REP OUTS: `data` is `count` values of `size` bytes, all for the same `port`."""
        if size == 1:
            # One byte always goes whole. All that is left of the call for most exits: a `with` of
            # the guard would cost more than the rest.
            _, write, offset, _, guard = self._found.get(port) or self._find_route(port)
            if guard is None:
                for value in data:
                    write(offset, 1, value)
                return
            guard.acquire()
            try:
                if count == 1:
                    write(offset, 1, data[0])
                    return
                for value in data:
                    write(offset, 1, value)
            finally:
                guard.release()
        elif count == 1:
            self.write(port, size, int.from_bytes(data, "little"))
        else:
            for at in range(0, size * count, size):
                self.write(port, size, int.from_bytes(data[at : at + size], "little"))

    def handle_in(self, port: int, size: int, count: int) -> bytes:
        """IN or REP INS: `count` values of `size` bytes, read one after the other at `port`."""
        if count == 1:
            if size == 1:
                return _BYTES[_read_whole(self._found.get(port) or self._find_route(port), 1)]
            return self.read(port, size).to_bytes(size, "little")
        return b"".join([self.read(port, size).to_bytes(size, "little") for _ in range(count)])

    def _replace(self, ranges: tuple[BusRange, ...]) -> None:
        # The ranges first: a lookup in another thread that already sees the new, empty memory must
        # not fill it from the old ranges.
        self._ranges = ranges
        self._found = {}

    def _find_route(self, address: int) -> Route:
        found = self._found
        ranges = self._ranges
        index = bisect_right(ranges, address, key=_start) - 1
        route: Route
        if index >= 0 and address < ranges[index].end:
            hit = ranges[index]
            widest = min(hit.width, hit.end - address)
            device = hit.device
            route = (device.read, device.write, address - hit.start, widest, hit.guard)
        else:
            gap_end = ranges[index + 1].start if index + 1 < len(ranges) else address + 8
            route = (
                self._read_unclaimed,
                self._write_unclaimed,
                address,
                gap_end - address,
                self._guard,
            )
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


def _read_whole(route: Route, size: int) -> int:
    read, _, offset, _, guard = route
    if guard is None:
        return read(offset, size)
    guard.acquire()
    try:
        return read(offset, size)
    finally:
        guard.release()


def _write_whole(route: Route, size: int, value: int) -> None:
    _, write, offset, _, guard = route
    if guard is None:
        write(offset, size, value)
        return
    guard.acquire()
    try:
        write(offset, size, value)
    finally:
        guard.release()


def _start(present: BusRange) -> int:
    return present.start


def _piece(address: int, left: int, widest: int) -> int:
    """The size of the next piece of a split access: a power of two, aligned, that fits."""
    piece = 8
    while piece > left or piece > widest or address % piece:
        piece //= 2
    return piece
