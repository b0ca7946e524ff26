# SPDX-License-Identifier: MIT
"""State in which Linux is entered: long mode over an identity map, or protected mode.

Both protocols want the same selectors (Linux ``Documentation/arch/x86/boot.rst``, 1.14, 1.15).
"""

from __future__ import annotations

import dataclasses
import struct

from pyvmm.boot.tables import FLAT_CODE, FLAT_DATA, NO_LDT, TASK, descriptor
from pyvmm.hosts.registers import Cr0, Cr4, DescriptorTable, Efer, Sregs
from pyvmm.memory.layout import HOLE_END
from pyvmm.rules.abi import PAGE_SIZE

_CODE_SELECTOR = 0x10  # __BOOT_CS
_DATA_SELECTOR = 0x18  # __BOOT_DS
_TASK_SELECTOR = 0x20
_CODE = dataclasses.replace(FLAT_CODE, selector=_CODE_SELECTOR)
_CODE_64 = dataclasses.replace(_CODE, l=1, db=0)
_DATA = dataclasses.replace(FLAT_DATA, selector=_DATA_SELECTOR)
_TASK = dataclasses.replace(TASK, selector=_TASK_SELECTOR)
"""A busy TSS has one type number in both modes (SDM vol. 3A, table 3-2)."""

_PRESENT, _WRITABLE, _LARGE = 1 << 0, 1 << 1, 1 << 7
_ENTRIES = 512
_LARGE_PAGE = 1 << 21
_DIRECTORIES = HOLE_END // (_LARGE_PAGE * _ENTRIES)
PAGE_TABLES_SIZE = (2 + _DIRECTORIES) * PAGE_SIZE
"""Bytes of `identity_map`: PML4, one page of directory pointers, directories."""


def linux_gdt(*, is_long: bool) -> bytes:
    """The GDT for `linux_sregs`: two null descriptors, code, data, TSS."""
    code = _CODE_64 if is_long else _CODE
    return bytes(16) + descriptor(code) + descriptor(_DATA) + descriptor(_TASK)


def identity_map(gpa: int) -> bytes:
    """Page tables for the first 4 GiB in pages of 2 MiB, to lie at `gpa`, a page's start."""
    rights = _PRESENT | _WRITABLE
    top = struct.pack("<Q", (gpa + PAGE_SIZE) | rights).ljust(PAGE_SIZE, b"\0")
    first = gpa + 2 * PAGE_SIZE
    directories = range(first, first + _DIRECTORIES * PAGE_SIZE, PAGE_SIZE)
    pointers = struct.pack(f"<{_DIRECTORIES}Q", *(one | rights for one in directories))
    pages = range(0, HOLE_END, _LARGE_PAGE)
    leaves = struct.pack(f"<{len(pages)}Q", *(one | rights | _LARGE for one in pages))
    return top + pointers.ljust(PAGE_SIZE, b"\0") + leaves


def linux_sregs(gdt: int, *, page_tables: int | None) -> Sregs:
    """Flat segments, no interrupts to be taken; long mode by the tables at a GPA, or paging off.

    `gdt` is the GPA of `linux_gdt`.
    """
    is_long = page_tables is not None
    sregs = Sregs(
        cs=_CODE_64 if is_long else _CODE,
        ds=_DATA,
        es=_DATA,
        fs=_DATA,
        gs=_DATA,
        ss=_DATA,
        tr=_TASK,
        ldt=NO_LDT,
        gdt=DescriptorTable(gdt, len(linux_gdt(is_long=is_long)) - 1),
        idt=DescriptorTable(0, 0),
        cr0=Cr0.PE | Cr0.ET,
    )
    if page_tables is None:
        return sregs
    return dataclasses.replace(
        sregs,
        cr0=Cr0.PE | Cr0.ET | Cr0.PG,
        cr3=page_tables,
        cr4=Cr4.PAE,
        efer=Efer.LME | Efer.LMA,
    )
