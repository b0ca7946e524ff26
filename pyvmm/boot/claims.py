# SPDX-License-Identifier: MIT
"""What a boot occupies of guest memory, the zero-filled rest of it included."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.boot.plan import BootProtocol, EntryState, GuestNeed
from pyvmm.memory.layout import GpaRange


@dataclass(frozen=True, slots=True)
class Claim:
    """`range` (GPAs, never empty) belongs to `what`; `data` is its start, the rest of it is zero.

    ``len(data) <= range.size``. Nothing else may be placed anywhere in `range`.
    """

    range: GpaRange
    data: bytes | memoryview
    what: str

    def __str__(self) -> str:
        return f"{self.what} at {self.range.start:#x}..{self.range.end:#x}"


def claim_of(gpa: int, data: bytes | memoryview, what: str) -> Claim:
    """The claim of `data` at `gpa` without any zero fill."""
    return Claim(GpaRange(gpa, gpa + len(data)), data, what)


@dataclass(frozen=True, slots=True)
class Kernel:
    """The part of an image that goes to memory as it is, and how it wants to be entered.

    `private_entry` and `start_info` are as in `pyvmm.boot.plan.BootPlan`.
    """

    protocol: BootProtocol
    claims: tuple[Claim, ...]
    entry: EntryState
    needs: GuestNeed | None
    private_entry: int | None = None
    start_info: int | None = None
