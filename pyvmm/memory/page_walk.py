# SPDX-License-Identifier: MIT
"""A walk of the guest's page tables for one linear address: what a crash report shows. Pure.

Source: APM vol. 2, chapter 5 (page translation); SDM vol. 3A, chapter 4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pyvmm.hosts.registers import Cr0, Cr4, Efer, Sregs
from pyvmm.memory.layout import GpaRange
from pyvmm.rules.abi import PAGE_SIZE

ReadGuest = Callable[[int, int], bytes | None]
"""(gpa, size in bytes) -> that many bytes, or None where there is no RAM."""

_PRESENT = 1 << 0
_LARGE = 1 << 7
_UNPAGED = 1 << 21
"""Page size in bytes that callers see of a walk without page tables: any page size would do."""
_ADDRESS_64 = 0x000F_FFFF_FFFF_F000


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One table entry on the way: its level's name, its own GPA, its value (None: not in RAM)."""

    level: str
    entry_gpa: int
    value: int | None

    @property
    def present(self) -> bool:
        """True if the entry maps something."""
        return self.value is not None and bool(self.value & _PRESENT)

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.level} at {self.entry_gpa:#x}: not readable"
        flags = "".join(
            letter if self.value & bit else "-"
            for letter, bit in (("P", 1), ("W", 2), ("U", 4), ("A", 32), ("D", 64), ("S", _LARGE))
        )
        return f"{self.level} at {self.entry_gpa:#x}: {self.value:#018x} {flags}"


@dataclass(frozen=True, slots=True)
class PageWalk:
    """A finished walk: every entry read, and the GPA that it ends at (None: not mapped).

    `page_size` is that of the page it ends in, in bytes: so far the next addresses map alike.
    """

    linear: int
    steps: tuple[WalkStep, ...]
    gpa: int | None
    page_size: int = PAGE_SIZE


@dataclass(frozen=True, slots=True)
class TableLevel:
    """A level of tables: where its index is in a linear address, whether its entries map pages."""

    name: str
    shift: int
    index_bits: int
    may_be_leaf: bool


def levels(sregs: Sregs) -> tuple[list[TableLevel], int]:
    """The levels from the top, and the size of an entry in bytes."""
    if sregs.efer & Efer.LMA:
        found = [
            TableLevel("PML4E", 39, 9, False),
            TableLevel("PDPTE", 30, 9, True),
            TableLevel("PDE", 21, 9, True),
            TableLevel("PTE", 12, 9, True),
        ]
        if sregs.cr4 & Cr4.LA57:
            found.insert(0, TableLevel("PML5E", 48, 9, False))
        return found, 8
    if sregs.cr4 & Cr4.PAE:
        return [
            TableLevel("PDPTE", 30, 2, False),
            TableLevel("PDE", 21, 9, True),
            TableLevel("PTE", 12, 9, True),
        ], 8
    return [TableLevel("PDE", 22, 10, True), TableLevel("PTE", 12, 10, True)], 4


def top_table(sregs: Sregs) -> int:
    """The GPA of the first table."""
    # PAE's is 32-byte aligned, all others are page aligned.
    pae_only = bool(sregs.cr4 & Cr4.PAE) and not sregs.efer & Efer.LMA
    return sregs.cr3 & (0xFFFF_FFE0 if pae_only else _ADDRESS_64)


def walk(read: ReadGuest, sregs: Sregs, linear: int) -> PageWalk:
    """Follow `linear` through the tables that `sregs` names.

    Without paging the walk has no steps and ends at the address itself. Nothing that the guest put
    into its tables makes this raise.
    """
    if not sregs.cr0 & Cr0.PG:
        return PageWalk(linear, (), linear, _UNPAGED)
    way, entry_size = levels(sregs)
    table = top_table(sregs)
    steps: list[WalkStep] = []
    for level in way:
        index = (linear >> level.shift) & ((1 << level.index_bits) - 1)
        entry_gpa = table + index * entry_size
        raw = read(entry_gpa, entry_size)
        value = None if raw is None else int.from_bytes(raw, "little")
        step = WalkStep(level.name, entry_gpa, value)
        steps.append(step)
        if value is None or not step.present:
            return PageWalk(linear, tuple(steps), None)
        is_leaf = level.shift == 12 or (level.may_be_leaf and bool(value & _LARGE))
        offset = linear & ((1 << level.shift) - 1)
        if is_leaf:
            frame = value & _ADDRESS_64 & ~((1 << level.shift) - 1)
            return PageWalk(linear, tuple(steps), frame | offset, 1 << level.shift)
        table = value & _ADDRESS_64
    return PageWalk(linear, tuple(steps), None)


@dataclass(frozen=True, slots=True)
class LinearPart:
    """`size` bytes of linear addresses from `linear` on, adjacent in guest-physical memory, too.

    `gpa` is None for what is not mapped.
    """

    linear: int
    size: int
    gpa: int | None

    @property
    def range(self) -> GpaRange:
        """GPAs of the part; empty if it is not mapped."""
        return GpaRange(self.gpa or 0, (self.gpa or 0) + (self.size if self.gpa is not None else 0))


def linear_parts(
    read: ReadGuest, sregs: Sregs, linear: int, size: int, most: int
) -> Iterator[LinearPart]:
    """Yield where [linear, linear + size), in bytes, lies; ascending, at most `most` bytes each.

    The tables are read as it goes, a part ahead.
    """
    end = linear + size
    pending: LinearPart | None = None
    while linear < end:
        found = walk(read, sregs, linear)
        length = min(end - linear, found.page_size - linear % found.page_size, most)
        if pending is not None and _continues(pending, found.gpa) and pending.size + length <= most:
            pending = LinearPart(pending.linear, pending.size + length, pending.gpa)
        else:
            if pending is not None:
                yield pending
            pending = LinearPart(linear, length, found.gpa)
        linear += length
    if pending is not None:
        yield pending


def _continues(part: LinearPart, gpa: int | None) -> bool:
    """Tell whether `gpa` directly follows `part`, as the linear addresses do."""
    if part.gpa is None or gpa is None:
        return part.gpa is gpa
    return part.gpa + part.size == gpa
