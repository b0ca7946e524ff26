# SPDX-License-Identifier: MIT
"""Plan of booting an image: placements, entry state, needs."""

from __future__ import annotations

import enum
from typing import NamedTuple

from pyvmm.hosts.registers import Regs, Sregs
from pyvmm.memory.layout import GpaRange


class BootProtocol(enum.Enum):
    """Protocol by which an image is entered; told from its content, never from its name."""

    PVH = "pvh"
    MULTIBOOT = "multiboot"
    FLAT = "flat"
    LINUX_64 = "linux-64"
    LINUX_32 = "linux-32"
    LINUX_16 = "linux-16"


class EntryWish(enum.Enum):
    """Entry that the user wants of an image with several; the values are those of ``--entry``."""

    AUTO = "auto"
    """64-bit before 32-bit before real mode for a bzImage; PVH before Multiboot for an ELF file."""
    PVH = "pvh"
    LONG = "64"
    PROTECTED = "32"
    REAL = "16"

    @property
    def title(self) -> str:
        """For messages."""
        return "PVH entry" if self is EntryWish.PVH else f"{self.value}-bit entry"


class GuestNeed(enum.IntFlag):
    """Features a guest must have to run; its ``pyvmm`` ELF note names them (``guest/include``)."""

    INTERRUPTS = 1 << 0
    """An interrupt controller and a timer."""


class Placement(NamedTuple):
    """Bytes to copy to guest RAM at `gpa`. RAM is zero elsewhere: zero fill needs no placement."""

    gpa: int
    data: bytes | memoryview
    what: str


class EntryState(NamedTuple):
    """The boot vCPU's registers at its first instruction. `sregs.apic_base` is left to the host."""

    regs: Regs
    sregs: Sregs


class BootPlan(NamedTuple):
    """Everything that a machine needs from an image.

    Placements lie within usable RAM and do not overlap. `needs` is None where the image does not
    say: whoever builds the machine decides. `private_entry` and `start_info` (GPAs) are where the
    firmware enters it after a private launch, and what it is then given; None: not made for that,
    and `private_flaw` says why where it was meant to be. `remarks` are sentences, without a full
    stop, on what is not as the image would have it. `kernel` goes from the image's first byte in
    memory to its last, zero fill included.
    """

    protocol: BootProtocol
    placements: tuple[Placement, ...]
    entry: EntryState
    needs: GuestNeed | None
    private_entry: int | None = None
    start_info: int | None = None
    private_flaw: str = ""
    remarks: tuple[str, ...] = ()
    kernel: GpaRange | None = None
    initrd: GpaRange | None = None
