# SPDX-License-Identifier: MIT
"""Windows of BARs: they come and go on the machine's buses as guests decode and move them.

A BAR that would lie over something else is not mapped, and counted: what was there first answers.
It is tried again whenever any BAR changes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping

from pyvmm.devices.bus import Bus, BusOverlapError, BusRange
from pyvmm.devices.pci.segment import GuardedFunction
from pyvmm.devices.placement import Space, Window

_Key = tuple[str, int]
"""Name of a function, and number of its BAR."""


class BarWindows:
    """BARs of all functions. Any thread; `_lock` is an inner one, under which no guard is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buses: Mapping[Space, Bus] = {}
        self._taken: tuple[tuple[Space, int, int], ...] = ()
        self._wanted: dict[_Key, tuple[Space, BusRange]] = {}
        self._mapped: dict[_Key, tuple[Space, BusRange]] = {}
        self.overlaps = 0
        """Number of times that a BAR was left out because something else is there."""

    def attach(self, buses: Mapping[Space, Bus], taken: Iterable[tuple[Space, int, int]]) -> None:
        """Let BARs appear on `buses`, but not over what is `taken`: space, start and end.

        That is what answers before a bus is asked: memory, and devices of the host's.
        """
        self._buses = buses
        self._taken = tuple(taken)

    def update(self, function: GuardedFunction) -> None:
        """Map a function's BARs where they are decoded now, and nowhere else. Under its guard."""
        placed = {
            (function.name, bar.number): (
                bar.kind.space,
                BusRange(
                    address,
                    bar.size,
                    bar.width,
                    f"{bar.name} of {function.name}",
                    bar.registers,
                    function.guard,
                ),
            )
            for bar, address in function.space.placed()
        }
        with self._lock:
            gone = [key for key in self._wanted if key[0] == function.name]
            for key in gone:
                wanted = self._wanted[key]
                if placed.get(key) != wanted:
                    del self._wanted[key]
                    self._unmap(key)
            self._wanted.update(placed)
            for key, (space, range_) in self._wanted.items():
                if key not in self._mapped:
                    self._map(key, space, range_)

    def _unmap(self, key: _Key) -> None:
        mapped = self._mapped.pop(key, None)
        if mapped is not None:
            space, range_ = mapped
            self._buses[space].remove(range_)

    def _map(self, key: _Key, space: Space, range_: BusRange) -> None:
        bus = self._buses.get(space)
        if bus is None:
            return
        if any(
            space is where and start < range_.end and range_.start < end
            for where, start, end in self._taken
        ):
            self.overlaps += 1
            return
        try:
            bus.add_all((range_,))
        except BusOverlapError:
            self.overlaps += 1
            return
        self._mapped[key] = (space, range_)

    def start(self, function: GuardedFunction, number: int) -> int | None:
        """Address at which a BAR is mapped, a port or a GPA; None: nowhere."""
        with self._lock:
            mapped = self._mapped.get((function.name, number))
        return None if mapped is None else mapped[1].start

    def windows(self, space: Space) -> Iterator[Window]:
        """BARs that are mapped in `space`, ascending."""
        with self._lock:
            found = [range_ for where, range_ in self._mapped.values() if where is space]
        for one in sorted(found, key=lambda range_: range_.start):
            yield Window(space, one.start, one.length, one.device, one.width, one.name)
