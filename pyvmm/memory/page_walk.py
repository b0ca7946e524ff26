"""A walk of the guest's page tables for one linear address: what a crash report shows. Pure.

Source: APM vol. 2, chapter 5 (page translation); SDM vol. 3A, chapter 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyvmm.hosts.registers import Cr0, Cr4, Efer, Sregs

ReadGuest = Callable[[int, int], bytes | None]
"""(gpa, size in bytes) -> that many bytes, or None where there is no RAM."""

_PRESENT = 1 << 0
_LARGE = 1 << 7
_ADDRESS_64 = 0x000F_FFFF_FFFF_F000


@dataclass(frozen=True, slots=True)
class WalkStep:
    """One table entry on the way: its level's name, its own GPA, its value (None: not in RAM)."""

    level: str
    entry_gpa: int
    value: int | None

    @property
    def present(self) -> bool:
        """Whether the entry maps something."""
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
    """A finished walk: every entry read, and the GPA that it ends at (None: not mapped)."""

    linear: int
    steps: tuple[WalkStep, ...]
    gpa: int | None


@dataclass(frozen=True, slots=True)
class _Level:
    name: str
    shift: int
    index_bits: int
    may_be_leaf: bool


def _levels(sregs: Sregs) -> tuple[list[_Level], int]:
    """The levels from the top, and the size of an entry in bytes."""
    if sregs.efer & Efer.LMA:
        levels = [
            _Level("PML4E", 39, 9, False),
            _Level("PDPTE", 30, 9, True),
            _Level("PDE", 21, 9, True),
            _Level("PTE", 12, 9, True),
        ]
        if sregs.cr4 & Cr4.LA57:
            levels.insert(0, _Level("PML5E", 48, 9, False))
        return levels, 8
    if sregs.cr4 & Cr4.PAE:
        return [
            _Level("PDPTE", 30, 2, False),
            _Level("PDE", 21, 9, True),
            _Level("PTE", 12, 9, True),
        ], 8
    return [_Level("PDE", 22, 10, True), _Level("PTE", 12, 10, True)], 4


def walk(read: ReadGuest, sregs: Sregs, linear: int) -> PageWalk:
    """Follow `linear` through the tables that `sregs` names.

    Without paging the walk has no steps and ends at the address itself. Nothing that the guest put
    into its tables makes this raise.
    """
    if not sregs.cr0 & Cr0.PG:
        return PageWalk(linear, (), linear)
    levels, entry_size = _levels(sregs)
    # PAE's top table is 32-byte aligned, all others are page aligned.
    pae_only = bool(sregs.cr4 & Cr4.PAE) and not sregs.efer & Efer.LMA
    table = sregs.cr3 & (0xFFFF_FFE0 if pae_only else _ADDRESS_64)
    steps: list[WalkStep] = []
    for level in levels:
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
            return PageWalk(linear, tuple(steps), frame | offset)
        table = value & _ADDRESS_64
    return PageWalk(linear, tuple(steps), None)
