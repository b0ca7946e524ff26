# SPDX-License-Identifier: MIT
"""Memory of the host that a guest takes, over time: shared and private copies, holes, page tables.

A `Recording` takes a sample at its start, every so often, and when the guest has ended, while its
memory is still there. See docs/memory-use.md.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from pyvmm.errors import HostLacksError
from pyvmm.machine.events import Ended, MachineEvent
from pyvmm.machine.machine import Machine
from pyvmm.memory.copies import CopyRun
from pyvmm.memory.layout import GpaRange

INTERVAL = 0.1
"""Seconds between two samples, at first."""
_MOST_SAMPLES = 256
_REST = 10
"""Time between two samples, at least, as a multiple of the time that one takes."""
_MOST_NAMED = 16
"""Ranges that a sample names."""
_MAPPED = {"pages_4k": 4 << 10, "pages_2m": 2 << 20, "pages_1g": 1 << 30}
"""KVM's statistics of what a VM's own page tables map, and the bytes of such a page."""


@dataclass(frozen=True, slots=True)
class PageTables:
    """Page tables, as the kernel tells them.

    `mapped`: the VM's pages that KVM has mapped for the guest, by their size in bytes; empty where
    it has no statistics. In bytes, None where the kernel does not tell: `process`, this process's
    tables (VmPTE of proc(5)); `secondary`, those of all VMs of the system (SecPageTables).
    """

    mapped: Mapping[int, int]
    process: int | None
    secondary: int | None

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "mapped_pages": {str(size): count for size, count in self.mapped.items()},
            "process_bytes": self.process,
            "secondary_bytes_of_all_vms": self.secondary,
        }


@dataclass(frozen=True, slots=True)
class RegionUse:
    """One region, named `what`: resident `shared` and `private` bytes, and those of its holes.

    `twice`: bytes of the pages that are resident on both sides; `named`: where the first of them
    are, in GPAs. Unless `is_exact`, there are too many pieces to be looked at one by one, and these
    are two lower bounds.
    """

    what: str
    range: GpaRange
    two_sided: bool
    shared: int
    private: int
    twice: int
    holes: int
    named: tuple[GpaRange, ...]
    is_exact: bool

    @classmethod
    def of(cls, what: str, range_: GpaRange, two_sided: bool, runs: Sequence[CopyRun]) -> RegionUse:
        """The sum of runs that cover it."""
        return cls(
            what=what,
            range=range_,
            two_sided=two_sided,
            shared=sum(run.shared for run in runs),
            private=sum(run.private for run in runs),
            twice=sum(run.twice for run in runs),
            holes=sum(run.holes for run in runs),
            named=tuple(run.range for run in runs if run.twice)[:_MOST_NAMED],
            is_exact=all(run.is_exact for run in runs),
        )

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "what": self.what,
            "start": self.range.start,
            "end": self.range.end,
            "two_sided": self.two_sided,
            "shared_bytes": self.shared,
            "private_bytes": self.private,
            "twice_bytes": self.twice,
            "hole_bytes": self.holes,
            "exact": self.is_exact,
            "twice": [{"start": one.start, "end": one.end} for one in self.named],
        }


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory at one moment, `seconds` after the recording began."""

    seconds: float
    regions: tuple[RegionUse, ...]
    tables: PageTables

    @property
    def shared(self) -> int:
        """Resident bytes of all shared sides."""
        return sum(one.shared for one in self.regions)

    @property
    def private(self) -> int:
        """Resident bytes of all private sides."""
        return sum(one.private for one in self.regions)

    @property
    def twice(self) -> int:
        """Bytes of the pages that are resident on both sides."""
        return sum(one.twice for one in self.regions)

    @property
    def holes(self) -> int:
        """Bytes of the pages that take no memory."""
        return sum(one.holes for one in self.regions)

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "seconds": round(self.seconds, 3),
            "shared_bytes": self.shared,
            "private_bytes": self.private,
            "twice_bytes": self.twice,
            "hole_bytes": self.holes,
            "regions": [one.to_json() for one in self.regions],
            "page_tables": self.tables.to_json(),
        }


class Recording:
    """Samples of one machine, oldest first, at most 256: then every second one is dropped."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._over = False
        self.interval = INTERVAL
        """Seconds between two samples."""
        self.samples: list[MemorySample] = []
        self.lacking: str | None = None
        """Reason why the host cannot tell, where it cannot: then there are no samples."""

    def take(self, *, last: bool = False) -> None:
        """Take a sample now, the `last` one or not: behind that none is taken. Any thread."""
        with self._lock:
            if self._over or self.lacking is not None:
                return
            self._over = last
            began = time.monotonic()
            try:
                sample = take_sample(self._machine, began - self._started)
            except HostLacksError as error:
                self.lacking = str(error)
                return
            self.samples.append(sample)
            if len(self.samples) > _MOST_SAMPLES:
                del self.samples[1::2]
                self.interval *= 2
            # Of a large guest, looking takes long enough to be a load.
            self.interval = max(self.interval, _REST * (time.monotonic() - began))

    @property
    def peak(self) -> MemorySample | None:
        """The sample with the most resident bytes."""
        return max(self.samples, key=lambda one: one.shared + one.private, default=None)

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {"lacking": self.lacking, "samples": [one.to_json() for one in self.samples]}


@asynccontextmanager
async def recording(machine: Machine) -> AsyncIterator[Recording]:
    """Record inside of the block, in the machine's trio thread; the last sample is at its end."""
    record = Recording(machine)
    record.take()

    def hear(event: MachineEvent) -> None:
        if isinstance(event, Ended):
            record.take(last=True)

    async def sample() -> None:
        while True:
            await trio.sleep(record.interval)
            await trio.to_thread.run_sync(record.take)

    with machine.events.listen(hear):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sample)
            yield record
            nursery.cancel_scope.cancel()


def take_sample(machine: Machine, seconds: float = 0.0) -> MemorySample:
    """Look at a machine's memory and page tables now. Any thread, while the machine is there.

    Raises `HostLacksError` where the kernel cannot tell what is resident of a guest_memfd.
    """
    regions = tuple(
        RegionUse.of(region.what, region.range, region.two_sided, runs)
        for region, runs in machine.memory.states.copies()
    )
    return MemorySample(seconds, regions, _page_tables(machine))


def _page_tables(machine: Machine) -> PageTables:
    mapped: dict[int, int] = {}
    try:
        for one in machine.host.statistics():
            if one.descriptor.name in _MAPPED:
                mapped[_MAPPED[one.descriptor.name]] = sum(one.values)
    except HostLacksError:
        pass  # The model has none.
    process = _kilobytes("/proc/self/status", "VmPTE")
    return PageTables(mapped, process, _kilobytes("/proc/meminfo", "SecPageTables"))


def _kilobytes(path: str, name: str) -> int | None:
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else None
