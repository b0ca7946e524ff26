# SPDX-License-Identifier: MIT
"""ELF notes: padded to 4 or to 8, whatever p_align says; zeroes, gaps and damage among them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pyvmm.boot.elf_notes import MAX_NOTE_BYTES, Note, NoteSegment, read_notes
from pyvmm.boot.launch import launch_image
from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootProtocol, GuestNeed
from pyvmm.errors import ImageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import MIB

from .images import (
    ENTRY,
    elf,
    multiboot_header,
    needs_note,
    note,
    patch,
    patch_segment,
    private_note,
    pvh,
    pvh_note,
)
from .soundness import assert_sound

LAYOUT = AddressMap.of(64 * MIB)

names = st.sampled_from((b"", b"GNU", b"Xen", b"Linux", b"pyvmm", b"stapsdt")) | st.binary(
    max_size=9
)
words = st.integers(0, 0xFFFFFFFF)
notes = st.builds(Note, names, st.integers(0, 40) | words, st.binary(max_size=20), st.just(False))


def as_bytes(found: list[Note], padding: int) -> bytes:
    return b"".join(note(one.name, one.type, one.descriptor, padding) for one in found)


def read(data: bytes) -> NoteSegment:
    return read_notes(memoryview(data))


def makes_sense_padded_to_4(data: bytes) -> bool:
    """Whether notes that are padded to 4 account for every byte that is not zero."""
    offset = 0
    while any(data[offset:]):
        if offset + 12 > len(data):
            return False
        name, descriptor, _ = struct.unpack_from("<III", data, offset)
        end = offset + 12 + -(-name // 4) * 4 + descriptor
        if end > len(data):
            return False
        offset = -(-end // 4) * 4
    return True


@given(found=st.lists(notes, max_size=6), zeroes=st.integers(0, 70))
def test_padded_to_4_with_any_zeroes_behind(found: list[Note], zeroes: int) -> None:
    assert read(as_bytes(found, 4) + bytes(zeroes)) == NoteSegment(tuple(found))


@given(found=st.lists(notes, max_size=6), zeroes=st.integers(0, 70))
@example(found=[Note(b"pyvmm", 1, b"\1\0\0\0")], zeroes=0)
@example(found=[Note(b"GNU", 5, b"12345"), Note(b"Xen", 18, b"\0\0\x10\0")], zeroes=4096)
def test_padded_to_8_where_4_makes_no_sense(found: list[Note], zeroes: int) -> None:
    data = as_bytes(found, 8) + bytes(zeroes)
    if makes_sense_padded_to_4(data):
        assert read(data).damage is None
    else:
        assert read(data) == NoteSegment(tuple(found))


def test_sections_of_both_kinds_in_one_segment() -> None:
    """What GNU ld makes of ``:note`` for several sections: a gap before the one aligned to 8."""
    properties = note(b"GNU", 5, bytes(range(32)), 8)
    data = pvh_note() + bytes(4) + properties + needs_note(1) + private_note(ENTRY)
    found = read(data)
    assert found.damage is None
    assert [(one.name, one.type) for one in found.notes] == [
        (b"Xen", 18), (b"GNU", 5), (b"pyvmm", 1), (b"pyvmm", 2),
    ]  # fmt: skip
    assert found.notes[2].descriptor == b"\1\0\0\0"


@given(data=st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    found = read(data)
    if found.damage is None:
        whole = sum(len(one.name) + len(one.descriptor) for one in found.notes)
        assert whole <= len(data)
    else:
        assert found.damage <= len(data)
        assert any(data[found.damage :])


def test_much_of_it_takes_no_more_than_one_look() -> None:
    """Each offset is looked at a bounded number of times, or this would not come back."""
    for pattern in (bytes(12), b"\0\0\0\0\4\0\0\0\0\0\0\0", b"\1" + bytes(11)):
        data = pattern * (4 * MAX_NOTE_BYTES // 12) + b"\xff"
        assert read(pvh_note() + data).notes[0].type == 18


# What an image boots by --------------------------------------------------------------------------


@pytest.mark.parametrize("align", [0, 1, 2, 4, 8, 16, 4096])
@pytest.mark.parametrize("padding", [4, 8])
@pytest.mark.parametrize("bits", [32, 64])
def test_p_align_says_nothing(align: int, padding: int, bits: int) -> None:
    needs = note(b"pyvmm", 1, b"\1\0\0\0", padding)
    content = note(b"GNU", 1, b"12345", padding) + needs + pvh_note(align=padding)
    plan = plan_boot(pvh(bits, notes=content, note_align=align), LAYOUT)
    assert plan.protocol is BootProtocol.PVH
    assert plan.needs is GuestNeed.INTERRUPTS


@pytest.mark.parametrize("zeroes", [1, 4, 11, 12, 13, 4096, 257 * 12, 1 << 20])
def test_zeroes_are_the_end(zeroes: int) -> None:
    plan = plan_boot(pvh(notes=pvh_note() + bytes(zeroes)), LAYOUT)
    assert plan.protocol is BootProtocol.PVH


def test_there_may_be_many() -> None:
    plan = plan_boot(pvh(notes=note(b"GNU", 1, b"x") * 1000 + pvh_note()), LAYOUT)
    assert plan.protocol is BootProtocol.PVH


@given(
    segments=st.permutations(
        [pvh_note(), needs_note(1), note(b"GNU", 5, bytes(16), 8), b"\xff" * 40, bytes(64)]
    )
)
def test_several_segments_one_of_them_damaged(segments: list[bytes]) -> None:
    plan = plan_boot(elf(more_notes=segments), LAYOUT)
    assert plan.protocol is BootProtocol.PVH
    assert plan.needs is GuestNeed.INTERRUPTS
    number = segments.index(b"\xff" * 40)
    assert plan.remarks == (f"note segment {number} makes no sense from 0x0 on",)


@given(
    damage=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 255)), min_size=1, max_size=8),
    where=st.none() | st.tuples(st.sampled_from(("p_offset", "p_filesz", "p_align")), words),
)
@example(damage=[(4, 0xFF), (7, 0xFF)], where=None)
@example(damage=[(0, 5)], where=("p_offset", 0xFFFFFFFF))
def test_no_damage_to_notes_keeps_multiboot_from_booting(
    damage: list[tuple[int, int]], where: tuple[str, int] | None
) -> None:
    content = bytearray(pvh_note() + note(b"GNU", 1, bytes(16)) + note(b"Xen", 6, b"linux\0"))
    for offset, value in damage:
        content[offset] = value
    image = elf(notes=bytes(content), multiboot=multiboot_header(3))
    if where is not None:
        image = patch_segment(image, 0, *where)
    plan = plan_boot(image, LAYOUT)
    assert_sound(plan, LAYOUT)
    assert plan.protocol in (BootProtocol.PVH, BootProtocol.MULTIBOOT)


@pytest.mark.parametrize(
    ("broken", "remark"),
    [
        (patch(pvh_note(), 4, "I", 5), "its PVH note is longer than the segment that it is in"),
        (note(b"Xen", 18, bytes(5)), "its PVH note holds 5 bytes, not 4 or 8"),
        (pvh_note() + pvh_note(ENTRY + 1), "it has PVH notes that contradict each other"),
        (pvh_note(1 << 32, size=8), "its PVH entry 0x100000000 is above 4 GiB"),
        (pvh_note(0x6000), "its entry point 0x6000 lies in no loaded segment"),
    ],
)
def test_a_broken_pvh_note_leaves_multiboot(broken: bytes, remark: str) -> None:
    plan = plan_boot(elf(notes=broken, multiboot=multiboot_header()), LAYOUT)
    assert plan.protocol is BootProtocol.MULTIBOOT
    said = plan.remarks[-1]
    assert said.startswith(remark)
    assert said.endswith("; so it is booted by its Multiboot header")
    with pytest.raises(ImageError, match=remark.split(" is longer", maxsplit=1)[0]):
        plan_boot(elf(notes=broken), LAYOUT)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (0, 0xFFFFFF, "note segment 0 makes no sense from 0x0 on"),
        (4, 0xFFFFFF, "note segment 0 makes no sense from 0x0 on"),
    ],
)
def test_all_that_is_damaged_is_told_of_an_image_that_boots(
    field: int, value: int, words: str
) -> None:
    broken = patch(note(b"GNU", 1, bytes(4)), field, "I", value)
    image = elf(notes=broken, more_notes=(pvh_note(),), multiboot=multiboot_header())
    assert plan_boot(image, LAYOUT).remarks == (words,)
    image = elf(notes=broken, more_notes=(pvh_note(),) * 2, multiboot=multiboot_header())
    image = patch_segment(image, 2, "p_offset", 0x123456)
    beyond = (
        f"note segment 2 at 0x123456..0x12346a lies beyond the end of the file, {len(image):#x}"
    )
    assert plan_boot(image, LAYOUT).remarks == (words, beyond)
    alone = patch_segment(
        elf(notes=pvh_note(), multiboot=multiboot_header()), 0, "p_offset", 1 << 20
    )
    plan = plan_boot(alone, LAYOUT)
    assert plan.protocol is BootProtocol.MULTIBOOT
    (said,) = plan.remarks
    assert "lies beyond the end of the file" in said


def test_what_was_damaged_is_told_where_a_note_is_missed() -> None:
    words = "no PVH note that could be read, .*: note segment 0 makes no sense from 0x10 on"
    with pytest.raises(ImageError, match=words):
        plan_boot(elf(notes=note(b"GNU", 1, b"") + b"\xff" * 12), LAYOUT)


@pytest.mark.parametrize(
    ("notes", "flaw"),
    [
        (note(b"pyvmm", 2, bytes(4)), "its note of a private entry holds 4 bytes, not 8"),
        (private_note(1) + private_note(2), "notes of private entries that contradict each other"),
        (private_note(1)[:-1], "its note of a private entry is longer than the segment"),
    ],
)
def test_the_note_of_a_private_entry_is_needed_for_that_only(notes: bytes, flaw: str) -> None:
    plan = plan_boot(pvh(notes=pvh_note() + notes), LAYOUT)
    assert plan.private_entry is None
    with pytest.raises(ImageError, match=flaw):
        launch_image(plan, AddressMap.of(64 * MIB, window=0))
