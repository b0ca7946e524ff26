# SPDX-License-Identifier: MIT
"""Guest memory that a boot occupies, including the zero-filled rest of each piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyvmm.boot.plan import BootProtocol, EntryState, GuestNeed
from pyvmm.memory.layout import GpaRange

if TYPE_CHECKING:
    from pyvmm.boot.linux_header import LinuxHeader


class Claim(NamedTuple):
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


class Kernel(NamedTuple):
    """The part of an image that goes to memory as it is, and where it wants to be entered (a GPA).

    `needs`, `private_entry`, `private_flaw` and `remarks` are as in `pyvmm.boot.plan.BootPlan`;
    `header` is that of a bzImage. `most_command_line` is in bytes, without the zero byte; None: not
    known.
    """

    protocol: BootProtocol
    claims: tuple[Claim, ...]
    entry: int
    needs: GuestNeed | None
    private_entry: int | None = None
    private_flaw: str = ""
    remarks: tuple[str, ...] = ()
    header: LinuxHeader | None = None
    most_command_line: int | None = None


class BootData(NamedTuple):
    """Data that a protocol puts into memory beside the kernel, and the state that refers to it.

    `start_info` is as in `pyvmm.boot.plan.BootPlan`. `in_place_of` are the kernel's own claims that
    have other contents now; `firmware` lies in the reserved range below 1 MiB.
    """

    claims: tuple[Claim, ...]
    entry: EntryState
    start_info: int | None = None
    in_place_of: tuple[Claim, ...] = ()
    firmware: Claim | None = None
