# SPDX-License-Identifier: MIT
"""Load address of an ELF file that can run at another address than the one it is linked to.

Two kinds say so: ET_DYN files, and kernels with a XEN_ELFNOTE_PHYS32_RELOC note (Xen
``public/elfnote.h``; Linux has it since 6.14, in an ET_EXEC file). Both stay where they are linked
to if there is RAM. Addresses are moved, contents are not touched: such code relocates itself.
"""

from __future__ import annotations

from typing import NamedTuple

from pyvmm.boot.elf import ElfImage, LoadSegment
from pyvmm.errors import ImageError
from pyvmm.memory.address_map import AddressMap, MemoryType
from pyvmm.memory.layout import HIGH_MEMORY_START, HOLE_END, MIB, GpaRange
from pyvmm.rules.abi import PAGE_SIZE

DEFAULT_ALIGN = 2 * MIB
"""Xen's, for a note that gives none where the segments are aligned to less than a page."""


class LoadRule(NamedTuple):
    """Constraints on a kernel's load address: start aligned to `align`, all of it in `within`."""

    align: int
    within: GpaRange


ANYWHERE = GpaRange(0, HOLE_END)
"""All that a 32-bit entry can reach."""


def load_offset(elf: ElfImage, rule: LoadRule | None, address_map: AddressMap) -> int:
    """Compute the bytes by which all of `elf` moves up (down if negative).

    A file that is linked to 0 names no place: real-mode memory begins there. Where nothing fits
    this is how far the lowest place would be, so that an error says what the memory lacks.
    """
    start = min(segment.claim.range.start for segment in elf.segments)
    end = max(segment.claim.range.end for segment in elf.segments)
    names_no_place = elf.is_relocatable and start == 0
    fits = all(
        address_map.is_usable(one.claim.range.start, one.claim.range.size) for one in elf.segments
    )
    if (fits and not names_no_place) or not (elf.is_relocatable or rule):
        return 0
    if rule is None:
        rule = LoadRule(_usual_align(elf, PAGE_SIZE), ANYWHERE)
    size = end - start
    # An aligned start, or what the linker made of it: all addresses keep their remainder.
    remainder = start % rule.align if elf.is_relocatable else 0
    floor = max(rule.within.start, HIGH_MEMORY_START)
    lowest = _aligned(floor, rule.align, remainder)
    for entry in address_map.e820():
        if entry.type is not MemoryType.RAM:
            continue
        gpa = _aligned(max(entry.range.start, floor), rule.align, remainder)
        if gpa + size <= min(entry.range.end, rule.within.end):
            return gpa - start
    return lowest - start if names_no_place else 0


def rule_of(elf: ElfImage, words: tuple[int, ...]) -> LoadRule | None:
    """The rule of a XEN_ELFNOTE_PHYS32_RELOC note: up to three words, alignment, first, last byte.

    None for what cannot be: the kernel then stays where it is linked to.
    """
    align = words[0] if words else _usual_align(elf, DEFAULT_ALIGN)
    first = words[1] if len(words) > 1 else 0
    last = words[2] if len(words) > 2 else HOLE_END - 1
    if not _is_power_of_two(align) or first > last:
        return None
    return LoadRule(align, GpaRange(first, last + 1))


def moved(elf: ElfImage, offset: int) -> ElfImage:
    """`elf` with its segments `offset` bytes further up; `entry` and virtual addresses stay."""
    if not offset:
        return elf
    segments = tuple(_moved(segment, offset) for segment in elf.segments)
    return elf._replace(segments=segments)


def entry_gpa(elf: ElfImage, entry: int, offset: int, attempt: str) -> int:
    """The GPA of the linked address `entry` when all of `elf` is moved by `offset` bytes.

    Raises `ImageError`, with the address that the image names, for one that was in no segment
    before. Where nothing is moved that is for who looks at all addresses.
    """
    if offset and not elf.contains(entry):
        raise ImageError(attempt, f"its entry point {entry:#x} lies in no loaded segment")
    return entry + offset


def offset_remarks(elf: ElfImage, offset: int) -> tuple[str, ...]:
    """Tell the user of a load address other than the linked one; empty for offset 0."""
    if not offset:
        return ()
    start = min(segment.claim.range.start for segment in elf.segments)
    return (f"the image, which is linked to {start:#x}, is loaded at {start + offset:#x}",)


def _moved(segment: LoadSegment, offset: int) -> LoadSegment:
    claim = segment.claim
    where = GpaRange(claim.range.start + offset, claim.range.end + offset)
    return LoadSegment(claim._replace(range=where), segment.virtual)


def _usual_align(elf: ElfImage, default: int) -> int:
    """The largest alignment that the segments ask for, where that is a page or more."""
    return elf.align if elf.align >= PAGE_SIZE and _is_power_of_two(elf.align) else default


def _aligned(gpa: int, align: int, remainder: int) -> int:
    """The first address from `gpa` on that leaves `remainder` when divided by `align`."""
    return gpa + (remainder - gpa) % align


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
