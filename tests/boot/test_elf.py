# SPDX-License-Identifier: MIT
"""ELF files that lie: each is refused, with words that say what is wrong."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootProtocol
from pyvmm.errors import ImageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import GIB, MIB

from .images import (
    ENTRY,
    HLT,
    Segment,
    elf,
    needs_note,
    note,
    patch,
    patch_header,
    patch_segment,
    pvh,
    pvh_note,
)
from .soundness import assert_sound

LAYOUT = AddressMap.of(64 * MIB)
TOP = 1 << 64


def with_segment(field: str, value: int, bits: int = 64) -> bytes:
    return patch_segment(pvh(bits), 1, field, value, bits)


def with_notes(notes: bytes) -> bytes:
    return elf(notes=notes)


HEADER_LIES = [
    (patch(pvh(), 4, "B", 0), "unknown ELF class 0; build it as ELF64"),
    (patch(pvh(), 4, "B", 3), "unknown ELF class 3"),
    (patch(pvh(), 5, "B", 2), "not a little-endian"),
    (patch(pvh(), 5, "B", 0), "not a little-endian"),
    (patch(pvh(), 6, "B", 2), "unknown ELF version 2; the image is cut off or damaged"),
    (patch_header(pvh(), "e_machine", 183), "for machine EM_AARCH64, not x86-64"),
    (patch_header(pvh(), "e_machine", 0xABCD), "for machine 43981"),
    (patch_header(pvh(), "e_type", 1), "no executable .ET_REL"),
    (patch_header(pvh(), "e_type", 4), "no executable .ET_CORE"),
    (patch_header(pvh(), "e_type", 0xFFFF), "no executable"),
    (patch_header(pvh(), "e_phnum", 0), "has no program headers"),
    (patch_header(pvh(), "e_phnum", 129), "129 program headers, more than 128"),
    (patch_header(pvh(), "e_phnum", 0xFFFF), "65535 program headers, more than 128"),
    (patch_header(pvh(), "e_phnum", 128), "program header table .* beyond the end of the file"),
    (patch_header(pvh(), "e_phentsize", 32), "program headers are 32 bytes, not 56"),
    (patch_header(pvh(), "e_phentsize", 0), "program headers are 0 bytes, not 56"),
    (patch_header(pvh(32), "e_phentsize", 56, 32), "program headers are 56 bytes, not 32"),
    (patch_header(pvh(), "e_phoff", TOP - 1), "program header table .* beyond the end"),
    (patch_header(pvh(), "e_phoff", len(pvh()) - 111), "program header table .* beyond the end"),
]

SEGMENT_LIES = [
    (with_segment("p_type", 0), "no segment to load"),
    (with_segment("p_offset", len(pvh())), "segment 1 .* beyond the end of the file"),
    (with_segment("p_offset", TOP - 1), "segment 1 .* beyond the end of the file"),
    (with_segment("p_filesz", 2), "larger in the file .0x2 bytes. than in memory .0x1."),
    (with_segment("p_filesz", TOP - 1), "larger in the file"),
    (with_segment("p_memsz", 0), "larger in the file"),
    (
        patch_segment(with_segment("p_filesz", 2), 1, "p_memsz", 2),
        "segment 1 .* beyond the end of the file",
    ),
    (
        patch_segment(with_segment("p_filesz", 0), 1, "p_memsz", 0),
        "no segment to load",
    ),
    (with_segment("p_memsz", TOP - ENTRY + 1), "runs past the end of the address space"),
    (with_segment("p_paddr", TOP - 1), "beyond every physical address"),
    (with_segment("p_paddr", 0xFFFFFFFF80000000), "link it with physical load addresses"),
    (with_segment("p_paddr", 64 * MIB), "the guest's 64 MiB of memory; give --memory 65M or more"),
    (with_segment("p_memsz", 64 * MIB), "outside the guest's 64 MiB .* --memory 65M or more"),
    (with_segment("p_paddr", 5 * GIB), "give --memory 4097M or more"),
    (with_segment("p_paddr", 3 * GIB), "MMIO hole"),
    (with_segment("p_memsz", 4 * GIB), "MMIO hole"),
    (with_segment("p_paddr", 0xFFFFFFFF, 32), "MMIO hole"),
    (with_segment("p_paddr", 0x9FC00), "reserved range 0x9fc00..0x100000; link it at 1 MiB"),
    (with_segment("p_paddr", 0xFFFFF), "reserved range"),
    (pvh(segments=(Segment(ENTRY), Segment(ENTRY))), "segment 1 at .* overlaps segment 2"),
    (
        pvh(segments=(Segment(ENTRY, HLT, zeros=0x1000), Segment(ENTRY + 0x1000))),
        "segment 1 at 0x100000..0x101001 overlaps segment 2 at 0x101000..0x101001",
    ),
    (pvh(segments=(Segment(0x200000), Segment(ENTRY, b"x", zeros=2 * MIB))), "overlaps segment 1"),
]

NOTE_LIES = [
    (elf(notes=note(b"Xen", 18, b"")), "PVH note holds 0 bytes, not 4 or 8"),
    (elf(notes=note(b"Xen", 18, bytes(5))), "PVH note holds 5 bytes, not 4 or 8"),
    (elf(notes=pvh_note(1 << 32, size=8)), "PVH entry 0x100000000 is above 4 GiB"),
    (elf(notes=pvh_note(ENTRY + 1)), "entry point 0x100001 lies in no loaded segment"),
    (elf(notes=pvh_note(ENTRY - 1)), "entry point 0xfffff lies in no loaded segment"),
    (elf(notes=pvh_note(0x6000)), "entry point 0x6000 lies in no loaded segment"),
    (elf(notes=pvh_note() + pvh_note(ENTRY + 1)), "contradict each other"),
    (elf(notes=note(b"xen", 18, bytes(4))), "no PVH note"),
    (elf(notes=note(b"Xen\0", 18, bytes(4))), "no PVH note"),
    (elf(notes=note(b"Xen", 17, bytes(4))), "no PVH note"),
    (elf(notes=pvh_note() + needs_note(2)), "unknown needs 0x2; use a newer pyvmm"),
    (elf(notes=pvh_note() + needs_note(0x80000001)), "unknown needs 0x80000000"),
    (elf(notes=pvh_note() + note(b"pyvmm", 1, b"1")), "pyvmm note holds 1 bytes, not 4"),
    (elf(notes=pvh_note() + note(b"pyvmm", 1, bytes(8))), "pyvmm note holds 8 bytes, not 4"),
    (elf(notes=patch(pvh_note(), 0, "I", 5)), "note segment 0 makes no sense from 0x0 on"),
    (elf(notes=patch(pvh_note(), 0, "I", 0xFFFFFFFF)), "note segment 0 makes no sense from 0x0"),
    (elf(notes=patch(pvh_note(), 4, "I", 5)), "PVH note is longer than the segment"),
    (elf(notes=patch(pvh_note(), 4, "I", 0xFFFFFFFF)), "PVH note is longer than the segment"),
    (elf(notes=pvh_note() + pvh_note()[:-1]), "PVH note is longer than the segment"),
    (elf(notes=note(b"X", 1, b"") + pvh_note()[:12]), "note segment 0 makes no sense from 0x10 on"),
    (patch_segment(elf(notes=b"12345678" * 3), 0, "p_filesz", TOP - 1), "note segment 0 .* beyond"),
    (patch_segment(pvh(), 0, "p_offset", TOP - 1), "note segment 0 .* beyond the end of the file"),
    (patch_segment(pvh(), 0, "p_type", 0), "no PVH note"),
]


@pytest.mark.parametrize(("image", "words"), HEADER_LIES + SEGMENT_LIES + NOTE_LIES)
def test_refused(image: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        plan_boot(image, LAYOUT, name="lie.img")
    assert str(caught.value).startswith("cannot boot lie.img: ")
    assert "\n" not in str(caught.value)


def test_the_advised_memory_is_enough() -> None:
    for image in (with_segment("p_memsz", 100 * MIB + 1), with_segment("p_memsz", 64 * MIB)):
        with pytest.raises(ImageError) as caught:
            plan_boot(image, LAYOUT)
        advised = int(caught.value.remedy.removeprefix("give --memory ").split("M")[0])
        enough = AddressMap.of(advised * MIB)
        assert_sound(plan_boot(image, enough), enough)
        with pytest.raises(ImageError):
            plan_boot(image, AddressMap.of((advised - 1) * MIB))


@pytest.mark.parametrize("bits", [32, 64])
def test_truncated_anywhere(bits: int) -> None:
    """Up to the magic it is raw code like any other; from there on, a file that is cut off."""
    image = elf(
        (Segment(ENTRY, HLT * 16, zeros=64), Segment(0x200000, b"data")),
        notes=pvh_note() + needs_note(1),
        bits=bits,
    )
    plan_boot(image, LAYOUT)
    for length in range(1, 4):
        assert plan_boot(image[:length], LAYOUT).protocol is BootProtocol.FLAT
    for length in range(4, len(image)):
        with pytest.raises(ImageError, match="cut off"):
            plan_boot(image[:length], LAYOUT)


def test_segments_without_contents_are_ignored_wherever_they_are() -> None:
    image = pvh(segments=(Segment(ENTRY), Segment(TOP - 1, b"")))
    assert_sound(plan_boot(image, LAYOUT), LAYOUT)


def test_zero_fill_may_have_an_offset_past_the_end_of_the_file() -> None:
    image = pvh(segments=(Segment(ENTRY), Segment(0x200000, b"", zeros=4096)))
    plan_boot(patch_segment(image, 2, "p_offset", 1 << 20), LAYOUT)


def test_low_memory_beside_the_boot_data_is_free() -> None:
    image = pvh(segments=(Segment(ENTRY), Segment(0x1000, bytes(0x5000)), Segment(0x30000)))
    assert_sound(plan_boot(image, LAYOUT), LAYOUT)


def test_every_part_of_a_segment_can_be_entered() -> None:
    kernel = Segment(ENTRY, HLT, zeros=15)
    for entry in (ENTRY, ENTRY + 15):
        image = pvh(segments=(kernel,), notes=pvh_note(entry))
        assert plan_boot(image, LAYOUT).entry.regs.rip == entry
    with pytest.raises(ImageError, match="no loaded segment"):
        plan_boot(pvh(segments=(kernel,), notes=pvh_note(ENTRY + 16)), LAYOUT)


def test_the_builder_agrees_with_the_format() -> None:
    """One image by hand, so that a mistake in the builder is not a mistake in all tests."""
    by_hand = (
        b"\x7fELF\2\1\1".ljust(16, b"\0")
        + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, ENTRY, 64, 0, 0, 64, 56, 2, 0, 0, 0)
        + struct.pack("<IIQQQQQQ", 4, 5, 176, 0, 0, 20, 20, 4)
        + struct.pack("<IIQQQQQQ", 1, 5, 196, ENTRY, ENTRY, 1, 1, 4)
        + struct.pack("<III4sI", 4, 4, 18, b"Xen\0", ENTRY)
        + HLT
    )
    assert by_hand == pvh()
