# SPDX-License-Identifier: MIT
"""Descriptor tables and the segment registers that match them (SDM vol. 3A, 3.4.5)."""

from __future__ import annotations

import struct

from pyvmm.hosts.registers import Cr0, DescriptorTable, Segment, Sregs
from pyvmm.memory.layout import BOOT_GDT

_CODE_SELECTOR = 0x08
_DATA_SELECTOR = 0x10
_TASK_SELECTOR = 0x18

_ACCESSED_CODE = 0xB  # execute, read, accessed
_ACCESSED_DATA = 0x3  # read, write, accessed
_BUSY_TSS_32 = 0xB
_LDT = 0x2

FLAT_CODE = Segment(
    base=0,
    limit=0xFFFF_FFFF,
    selector=_CODE_SELECTOR,
    type=_ACCESSED_CODE,
    present=1,
    db=1,
    s=1,
    g=1,
)
"""32-bit code, 0 to 4 GiB."""
FLAT_DATA = Segment(
    base=0,
    limit=0xFFFF_FFFF,
    selector=_DATA_SELECTOR,
    type=_ACCESSED_DATA,
    present=1,
    db=1,
    s=1,
    g=1,
)
"""32-bit data and stack, 0 to 4 GiB."""
TASK = Segment(base=0, limit=0x67, selector=_TASK_SELECTOR, type=_BUSY_TSS_32, present=1)
"""A busy 32-bit TSS: hardware demands one, nobody uses it."""
NO_LDT = Segment(type=_LDT, unusable=1)
"""No local descriptor table."""


def descriptor(segment: Segment) -> bytes:
    """The 8 bytes of a GDT entry that loading the register would turn into `segment`.

    `Segment.limit` is in bytes, inclusive; with ``g`` set its low 12 bits must be ones (SDM vol.
    3A, figure 3-8).
    """
    limit = segment.limit >> 12 if segment.g else segment.limit
    access = segment.type | segment.s << 4 | segment.dpl << 5 | segment.present << 7
    flags = segment.avl | segment.l << 1 | segment.db << 2 | segment.g << 3
    return struct.pack(
        "<HHBBBB",
        limit & 0xFFFF,
        segment.base & 0xFFFF,
        segment.base >> 16 & 0xFF,
        access,
        limit >> 16 & 0xF | flags << 4,
        segment.base >> 24 & 0xFF,
    )


def boot_gdt() -> bytes:
    """The GDT for `protected_mode`: null, code, data, TSS."""
    return bytes(8) + descriptor(FLAT_CODE) + descriptor(FLAT_DATA) + descriptor(TASK)


def protected_mode(gdt: int = BOOT_GDT) -> Sregs:
    """32-bit protected mode, paging off, flat segments, no interrupts to be taken.

    `gdt` is the GPA of `boot_gdt`.

    This is what both the PVH ABI (Xen ``docs/misc/pvh.pandoc``) and Multiboot 0.6.96 (3.2 Machine
    state) ask for; where one leaves something open, the stricter is taken. CR0 is PE, and ET, which
    no processor of today can clear.
    """
    return Sregs(
        cs=FLAT_CODE,
        ds=FLAT_DATA,
        es=FLAT_DATA,
        fs=FLAT_DATA,
        gs=FLAT_DATA,
        ss=FLAT_DATA,
        tr=TASK,
        ldt=NO_LDT,
        gdt=DescriptorTable(gdt, len(boot_gdt()) - 1),
        idt=DescriptorTable(0, 0),
        cr0=Cr0.PE | Cr0.ET,
    )


def real_mode() -> Sregs:
    """16-bit real mode, all segments at 0, interrupt vectors at 0 (SDM vol. 3A, table 10-1)."""
    data = Segment(limit=0xFFFF, type=_ACCESSED_DATA, present=1, s=1)
    return Sregs(
        cs=Segment(limit=0xFFFF, type=_ACCESSED_CODE, present=1, s=1),
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        tr=Segment(limit=0xFFFF, type=_BUSY_TSS_32, present=1),
        ldt=Segment(limit=0xFFFF, type=_LDT, present=1),
        gdt=DescriptorTable(0, 0xFFFF),
        idt=DescriptorTable(0, 0x3FF),
        cr0=Cr0.ET,
    )
