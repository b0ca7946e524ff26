# SPDX-License-Identifier: MIT
"""Flat images: raw code that is entered in real mode where a BIOS would put a boot sector."""

from __future__ import annotations

from pyvmm.boot.claims import BootData, Kernel, claim_of
from pyvmm.boot.plan import BootProtocol, EntryState
from pyvmm.boot.tables import real_mode
from pyvmm.hosts.registers import Regs
from pyvmm.memory.layout import FLAT_ENTRY, LOW_USABLE_END

MAX_SIZE = LOW_USABLE_END - FLAT_ENTRY
"""The largest flat image in bytes: what lies between its place and the end of low memory."""

_FIRST_HARD_DISK = 0x80


def flat_kernel(view: memoryview) -> Kernel:
    """`view` (1 to `MAX_SIZE` bytes) at 0:0x7C00."""
    claims = (claim_of(FLAT_ENTRY, view, "the flat image"),)
    return Kernel(BootProtocol.FLAT, claims, FLAT_ENTRY, None)


def flat_boot_data() -> BootData:
    """Nothing but the registers: the stack below the code, DL the BIOS's boot drive."""
    regs = Regs(rip=FLAT_ENTRY, rsp=FLAT_ENTRY, rdx=_FIRST_HARD_DISK)
    return BootData((), EntryState(regs, real_mode()))
