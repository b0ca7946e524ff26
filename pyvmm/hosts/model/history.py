# SPDX-License-Identifier: MIT
"""The record of a vCPU's recent exits, and its counters: what hosts/kvm/history.c keeps."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic_ns

from pyvmm.hosts import exits
from pyvmm.hosts.exits import ExitRecord

_RECORDS = 32

_REASONS: dict[type, tuple[int, str]] = {
    exits.IoOut: (2, "IO"),
    exits.IoIn: (2, "IO"),
    exits.Debug: (4, "DEBUG"),
    exits.Hypercall: (3, "HYPERCALL"),
    exits.Hlt: (5, "HLT"),
    exits.MmioRead: (6, "MMIO"),
    exits.MmioWrite: (6, "MMIO"),
    exits.Shutdown: (8, "SHUTDOWN"),
    exits.KvmInternalError: (17, "INTERNAL_ERROR"),
    exits.MemoryFault: (39, "MEMORY_FAULT"),
}
"""KVM's numbers and names of exit reasons."""


class History:
    """History of one vCPU: its exits, posted accesses and conversions."""

    def __init__(self) -> None:
        self._records: deque[ExitRecord] = deque(maxlen=_RECORDS)
        self._counts: Counter[str] = Counter()

    def add(self, reason: exits.Exit) -> None:
        """An exit that `run` returns."""
        known = _REASONS.get(type(reason))
        if known is None:
            # A full ring is no exit of KVM's.
            self._counts["INTERRUPTED"] += type(reason) is exits.Interrupted
            return
        number, name = known
        self._counts[name] += 1
        address, size, is_write, value = _described(reason)
        self._append(ExitRecord(number, name, address, size, is_write, value, 1, monotonic_ns()))

    def posted(self, port: int, value: int | None) -> None:
        """An access to a port that ended no run; `value` is what was written, None: a read."""
        write = value is not None
        self._counts["POSTED_WRITE" if write else "POSTED_READ"] += 1
        self._append(ExitRecord(2, "IO", port, 1, write, value or 0, 1, monotonic_ns()))

    def converted(self) -> None:
        """A conversion that ended no run."""
        self._counts["CONVERTED"] += 1

    def _append(self, record: ExitRecord) -> None:
        records = self._records
        if records:
            last = records[-1]
            if (last.reason, last.address, last.size, last.is_write) == (
                record.reason,
                record.address,
                record.size,
                record.is_write,
            ):
                records[-1] = replace(last, count=last.count + 1, when=record.when)
                return
        records.append(record)

    def recent(self) -> Sequence[ExitRecord]:
        """The last ones, oldest first; adjacent ones of one kind and place folded."""
        return list(self._records)

    def counts(self) -> Mapping[str, int]:
        """Return the count for each name; names that never occurred are left out."""
        return {name: count for name, count in self._counts.items() if count}


def _described(reason: exits.Exit) -> tuple[int, int, bool, int]:
    """Address, size in bytes, whether it is a write, and the first datum written."""
    match reason:
        case exits.IoOut(port=port, size=size, data=data):
            return port, size, True, int.from_bytes(data[:size], "little")
        case exits.IoIn(port=port, size=size):
            return port, size, False, 0
        case exits.MmioWrite(gpa=gpa, data=data):
            return gpa, len(data), True, int.from_bytes(data, "little")
        case exits.MmioRead(gpa=gpa, size=size):
            return gpa, size, False, 0
        case exits.Hypercall(number=number):
            return number, 0, False, 0
        case exits.MemoryFault(gpa=gpa, size=size):
            return gpa, size, False, 0
        case _:
            return 0, 0, False, 0
