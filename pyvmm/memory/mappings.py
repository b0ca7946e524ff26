# SPDX-License-Identifier: MIT
"""Everything that a guest's page tables map, as runs of adjacent pages. Pure.

Source: as `pyvmm.memory.page_walk`. A guest can build tables that lead back into themselves and so
map all of its address space with a single page of memory; the effort is bounded, whatever it built.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pyvmm.errors import ImageError
from pyvmm.hosts.registers import Cr0, Sregs
from pyvmm.memory.page_walk import ReadGuest, TableLevel, levels, top_table

MOST_TABLES = 1 << 15
"""Tables read for one vCPU at the most: 128 MiB of them, which map 64 GiB page by page."""
MOST_RUNS = 1 << 15
"""Runs found at the most."""
_PRESENT = 1
_LARGE = 1 << 7
_ADDRESS = 0x000F_FFFF_FFFF_F000


class TooManyMappingsError(ImageError):
    """The guest's page tables go on for longer than anybody wants to follow them."""


@dataclass(frozen=True, slots=True)
class LinearRun:
    """[linear, linear + size) of a vCPU's addresses is [gpa, gpa + size); all in bytes."""

    linear: int
    gpa: int
    size: int


def mapped_runs(read: ReadGuest, sregs: Sregs) -> Iterator[LinearRun]:
    """Yield the mappings of the page tables of `sregs`, by linear address; none without paging.

    Adjacent pages that lead to adjacent ones are one run. Tables that are not in RAM map nothing.
    Raises `TooManyMappingsError` beyond `MOST_TABLES` and `MOST_RUNS`.
    """
    if not sregs.cr0 & Cr0.PG:
        return
    way, entry_size = levels(sregs)
    walk = _Walk(read, way, entry_size)
    pending: LinearRun | None = None
    count = 0
    for found in walk.table(0, top_table(sregs), 0):
        if (
            pending is not None
            and pending.linear + pending.size == found.linear
            and pending.gpa + pending.size == found.gpa
        ):
            pending = LinearRun(pending.linear, pending.gpa, pending.size + found.size)
            continue
        if pending is not None:
            yield pending
        pending = found
        count += 1
        if count > MOST_RUNS:
            raise _too_many(f"they map more than {MOST_RUNS} separate ranges")
    if pending is not None:
        yield pending


class _Walk:
    def __init__(self, read: ReadGuest, way: list[TableLevel], entry_size: int) -> None:
        self._read = read
        self._way = way
        self._entry_size = entry_size
        self._tables = 0
        # What the topmost bit of a linear address is continued to, up to 64 bits.
        bits = way[0].shift + way[0].index_bits
        self._sign = 1 << (bits - 1) if bits in (48, 57) else 0

    def table(self, depth: int, gpa: int, linear: int) -> Iterator[LinearRun]:
        self._tables += 1
        if self._tables > MOST_TABLES:
            raise _too_many(f"there are more than {MOST_TABLES} of them to follow")
        level = self._way[depth]
        entries = 1 << level.index_bits
        raw = self._read(gpa, entries * self._entry_size)
        if raw is None:
            return
        letter = "Q" if self._entry_size == 8 else "I"
        for index, value in enumerate(struct.unpack(f"<{entries}{letter}", raw)):
            if not value & _PRESENT:
                continue
            at = linear | index << level.shift
            if level.shift == 12 or (level.may_be_leaf and value & _LARGE):
                frame = value & _ADDRESS & ~((1 << level.shift) - 1)
                yield LinearRun(self._canonical(at), frame, 1 << level.shift)
            else:
                yield from self.table(depth + 1, value & _ADDRESS, at)

    def _canonical(self, linear: int) -> int:
        if not linear & self._sign:
            return linear
        return linear | (1 << 64) - (self._sign << 1)


def _too_many(cause: str) -> TooManyMappingsError:
    return TooManyMappingsError(
        "follow the guest's page tables", cause, "take the memory without paging"
    )
