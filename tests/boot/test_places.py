# SPDX-License-Identifier: MIT
"""Places: images that can be moved, tables that give way, modules, and no room at all."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot.claims import Claim
from pyvmm.boot.free_memory import FreeMemory
from pyvmm.boot.launch import launch_image
from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootPlan, BootProtocol
from pyvmm.errors import ImageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import GIB, HOLE_START, MIB, GpaRange
from pyvmm.rules.abi import PAGE_SIZE

from .images import (
    ENTRY,
    ET_DYN,
    HLT,
    Segment,
    elf,
    multiboot_2_header,
    multiboot_header,
    note,
    private_note,
    pvh,
    pvh_note,
    raw_multiboot,
)
from .soundness import assert_sound
from .test_pvh import bytes_at, memory_of

LAYOUT = AddressMap.of(64 * MIB)


def reloc_note(*words: int) -> bytes:
    return note(b"Xen", 19, struct.pack(f"<{len(words)}I", *words))


def segments_of(plan: BootPlan) -> list[int]:
    return [one.gpa for one in plan.placements if one.what.startswith("segment")]


# Images that can be moved ------------------------------------------------------------------------


@pytest.mark.parametrize("linked", [0x1000, 0x10000, ENTRY, ENTRY + 0x123, 5 * MIB])
def test_a_relocatable_image_is_loaded_where_it_is_linked_to(linked: int) -> None:
    image = pvh(segments=(Segment(linked),), notes=pvh_note(linked), kind=ET_DYN)
    plan = plan_boot(image, LAYOUT)
    assert (plan.entry.regs.rip, segments_of(plan), plan.remarks) == (linked, [linked], ())
    assert_sound(plan, LAYOUT)


@pytest.mark.parametrize(
    ("align", "base"),
    [(4, ENTRY), (0x1000, ENTRY), (2 * MIB, 2 * MIB), (16 * MIB, 16 * MIB), (3, ENTRY)],
)
@pytest.mark.parametrize("multiboot", [False, True])
def test_one_that_is_linked_to_0_starts_at_1_mib(align: int, base: int, multiboot: bool) -> None:
    """And stays in one piece; addresses keep their remainders."""
    image = elf(
        (Segment(0, HLT * 0x20), Segment(0x3010, b"data", zeros=0x200, virtual=0x5010)),
        notes=b"" if multiboot else pvh_note(0x10) + private_note(0x11),
        multiboot=multiboot_header() if multiboot else b"",
        entry=0x10,
        kind=ET_DYN,
        align=align,
    )
    plan = plan_boot(image, LAYOUT)
    assert plan.protocol is (BootProtocol.MULTIBOOT if multiboot else BootProtocol.PVH)
    assert plan.entry.regs.rip == base + 0x10
    assert segments_of(plan) == [base, base + 0x3010]
    assert plan.remarks == (
        f"the image, which is linked to 0x0, is loaded at {base:#x}",
    )  # fmt: skip
    if not multiboot:
        assert plan.private_entry == base + 0x11
    assert_sound(plan, LAYOUT)


def test_one_that_does_not_fit_where_it_is_linked_to_goes_elsewhere() -> None:
    far = 0x7000_1000
    image = pvh(
        segments=(Segment(far, HLT, zeros=MIB),), notes=pvh_note(far), kind=ET_DYN, align=2 * MIB
    )
    plan = plan_boot(image, LAYOUT)
    assert plan.entry.regs.rip == ENTRY + 0x101000
    assert far % (2 * MIB) == plan.entry.regs.rip % (2 * MIB)
    crossing = pvh(
        segments=(Segment(0x90000, HLT, zeros=MIB),), notes=pvh_note(0x90000), kind=ET_DYN
    )
    assert plan_boot(crossing, LAYOUT).entry.regs.rip == ENTRY


@pytest.mark.parametrize("multiboot", [False, True])
@pytest.mark.parametrize("entry", [0, 0x6000, 16 * GIB - 1])
@pytest.mark.parametrize("linked", [112 * MIB, 16 * GIB])
def test_an_entry_outside_an_image_that_is_moved_is_told_as_the_image_has_it(
    linked: int, entry: int, multiboot: bool
) -> None:
    image = elf(
        (Segment(linked),),
        notes=b"" if multiboot else pvh_note(entry, size=8),
        multiboot=multiboot_header() if multiboot else b"",
        entry=entry,
        kind=ET_DYN,
    )
    words = f"entry point {entry:#x} lies in no loaded segment|entry {entry:#x} is above 4 GiB"
    with pytest.raises(ImageError, match=words):
        plan_boot(image, LAYOUT)


def test_so_is_a_private_entry() -> None:
    notes = pvh_note(112 * MIB) + private_note(0x6000)
    plan = plan_boot(pvh(segments=(Segment(112 * MIB),), notes=notes, kind=ET_DYN), LAYOUT)
    assert plan.entry.regs.rip == ENTRY
    with pytest.raises(ImageError, match="its private entry 0x6000 lies in no loaded segment"):
        launch_image(plan, AddressMap.of(64 * MIB, window=0))


@pytest.mark.parametrize(
    ("words", "base"),
    [
        ((), 2 * MIB),
        ((PAGE_SIZE,), MIB),
        ((PAGE_SIZE, 5 * MIB), 5 * MIB),
        ((4 * MIB, 5 * MIB), 8 * MIB),
        ((PAGE_SIZE, 0, 16 * MIB), MIB),
        ((PAGE_SIZE, 0, 2 * MIB - 1, 7), MIB),
    ],
)
def test_a_kernel_with_a_note_of_relocation(words: tuple[int, ...], base: int) -> None:
    """Linux's vmlinux is ET_EXEC and says with PHYS32_RELOC where else it may go."""
    linked = 128 * MIB
    segments = (Segment(linked, HLT * 16, zeros=0xFFFF0, virtual=0xFFFFFFFF81000000),)
    image = pvh(segments=segments, notes=pvh_note(linked + 4, size=8) + reloc_note(*words))
    plan = plan_boot(image, LAYOUT)
    assert (segments_of(plan), plan.entry.regs.rip) == ([base], base + 4)
    roomy = AddressMap.of(256 * MIB)
    assert segments_of(plan_boot(image, roomy)) == [linked], "where it is linked to, if it can"


def test_the_alignment_of_segments_stands_in_for_one_in_the_note() -> None:
    image = pvh(
        segments=(Segment(128 * MIB),), notes=pvh_note(128 * MIB) + reloc_note(), align=4 * MIB
    )
    assert segments_of(plan_boot(image, LAYOUT)) == [4 * MIB]


@pytest.mark.parametrize(
    "words",
    [(0,), (3,), (PAGE_SIZE, 64 * MIB), (PAGE_SIZE, 5, 4), (PAGE_SIZE, 0, MIB - 1), (1 << 31,)],
)
def test_where_no_place_would_do_it_stays_and_is_told(words: tuple[int, ...]) -> None:
    notes = pvh_note(128 * MIB) + reloc_note(*words)
    image = pvh(segments=(Segment(128 * MIB),), notes=notes)
    with pytest.raises(ImageError, match="give --memory 129M or more"):
        plan_boot(image, LAYOUT)


def test_a_relocatable_image_that_is_too_large() -> None:
    image = pvh(segments=(Segment(0, HLT, zeros=80 * MIB),), notes=pvh_note(0), kind=ET_DYN)
    with pytest.raises(ImageError, match=r"outside the guest's 64 MiB .* --memory 82M") as caught:
        plan_boot(image, LAYOUT)
    assert "0x100000.." in str(caught.value)
    plan_boot(image, AddressMap.of(82 * MIB))


# Tables give way ---------------------------------------------------------------------------------

TABLES = (0x500, 0x6000, 0x7000, 0x20000)


def boot_tables(plan: BootPlan) -> set[str]:
    return {one.what for one in plan.placements if not one.what.startswith(("segment", "the M"))}


@pytest.mark.parametrize("multiboot", [False, True])
@pytest.mark.parametrize(
    ("gpa", "size"),
    [
        *((gpa, 1) for gpa in TABLES),
        (0x500, 0x6000 - 0x500),
        (0x1000, 0x7000),
        (0x1000, 0x40000),
        (0, 0x9FC00),
        (0x510, 0x9F000 - 0x510),
    ],
)
def test_tables_give_way_to_segments(gpa: int, size: int, multiboot: bool) -> None:
    code = bytes(range(256)) * (size // 256 + 1)
    image = elf(
        (Segment(gpa, code[:size]), Segment(ENTRY, HLT)),
        notes=b"" if multiboot else pvh_note(),
        multiboot=multiboot_header() if multiboot else b"",
    )
    line = b"the command line"
    plan = plan_boot(image, LAYOUT, line, b"initrd")
    assert_sound(plan, LAYOUT)
    assert bytes_at(plan, gpa, size) == code[:size]
    gdt = plan.entry.sregs.gdt
    assert bytes_at(plan, gdt.base, gdt.limit + 1)[8:16] == bytes.fromhex("ffff0000009bcf00")
    base = plan.entry.regs.rbx
    if multiboot:
        flags, *_ = info = struct.unpack("<18I", bytes_at(plan, base, 72))
        command_line, count, modules, length, memory_map = (info[n] for n in (4, 5, 6, 11, 12))
        assert flags & 1 << 6
        start, end, _, _ = struct.unpack("<4I", bytes_at(plan, modules, 16))
        assert struct.unpack_from("<IQQ", bytes_at(plan, memory_map, length)) == (20, 0, 0x9FC00)
    else:
        info = struct.unpack("<4I4Q2I", bytes_at(plan, base, 56))
        _, _, _, count, modules, command_line, _, memory_map, _, _ = info
        start, size_of_it, _, _ = struct.unpack("<4Q", bytes_at(plan, modules, 32))
        end = start + size_of_it
        assert plan.start_info == base
        assert struct.unpack("<QQ", bytes_at(plan, memory_map, 16)) == (0, 0x9FC00)
    assert count == 1
    assert bytes_at(plan, start, end - start) == b"initrd"
    told = b"image " + line if multiboot else line
    assert bytes_at(plan, command_line, len(told) + 1) == told + b"\0"


def test_without_low_memory_tables_go_to_the_top() -> None:
    """Not right behind the kernel, where it may put its stack or its page tables."""
    image = pvh(segments=(Segment(0, bytes(0x9FC00)), Segment(ENTRY)))
    plan = plan_boot(image, LAYOUT)
    assert_sound(plan, LAYOUT)
    high = [one.gpa for one in plan.placements if one.gpa > ENTRY]
    assert high == [64 * MIB - n * PAGE_SIZE for n in (4, 3, 2, 1)]


def test_memory_without_room_for_tables() -> None:
    layout = AddressMap.of(2 * MIB)
    image = pvh(segments=(Segment(0, bytes(0x9FC00)), Segment(ENTRY, HLT, zeros=MIB - 1)))
    with pytest.raises(ImageError, match=r"no room for the boot GDT, 32 bytes; give .* --memory"):
        plan_boot(image, layout)
    plan_boot(image, AddressMap.of(3 * MIB))


ranges = st.builds(
    lambda start, size: GpaRange(start, start + size),
    st.integers(0, 4 * MIB - 1),
    st.integers(1, MIB),
)


@given(
    taken=st.lists(ranges, max_size=8),
    preferred=st.integers(0x500, 0x9F000),
    size=st.integers(1, 0x20000),
)
def test_what_is_given_away_was_free(taken: list[GpaRange], preferred: int, size: int) -> None:
    free = FreeMemory(AddressMap.of(4 * MIB), taken, "boot x")
    where = free.place(preferred, size, "a table") if size < 0x800 else free.highest_pages(size)
    if where is not None:
        given_away = GpaRange(where, where + size)
        assert not any(given_away.overlaps(other) for other in taken)
        assert where >= 0x500
        assert given_away.end <= 4 * MIB
        free.take(Claim(given_away, b"", "it"))
        low = free.lowest_pages(size, 0)
        assert low is None or not given_away.overlaps(GpaRange(low, low + size))


# Multiboot modules -------------------------------------------------------------------------------


def module_place(plan: BootPlan) -> int:
    _, whole = memory_of(plan)["the Multiboot information"]
    (modules,) = struct.unpack_from("<I", whole, 24)
    start, end, _, _ = struct.unpack("<4I", bytes_at(plan, modules, 16))
    assert bytes_at(plan, start, end - start) == b"module"
    return int(start)


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ((Segment(ENTRY),), 0x101000),
        ((Segment(ENTRY, HLT, zeros=0xFFF),), 0x101000),
        ((Segment(ENTRY, HLT, zeros=0x1000),), 0x102000),
        ((Segment(ENTRY), Segment(0x300001)), 0x301000),
        ((Segment(ENTRY, HLT, zeros=0x80000), Segment(0x300000, b"", zeros=0x5000)), 0x305000),
        # A kernel that ends where memory does: the first room that there is.
        ((Segment(ENTRY), Segment(64 * MIB - 1)), 0x101000),
        ((Segment(0x8000),), MIB),
    ],
)
def test_modules_lie_right_behind_the_kernel(segments: tuple[Segment, ...], expected: int) -> None:
    entry = segments[0].gpa
    image = elf(segments, multiboot=multiboot_header(), bits=32, entry=entry)
    plan = plan_boot(image, LAYOUT, initrd=b"module")
    assert module_place(plan) == expected
    assert_sound(plan, LAYOUT)


def test_modules_of_a_raw_image_lie_behind_its_bss() -> None:
    plan = plan_boot(raw_multiboot(bss=0x12345), LAYOUT, initrd=b"module")
    assert module_place(plan) == 0x113000


def test_a_kernel_above_4_gib_keeps_its_module_below_the_hole() -> None:
    layout = AddressMap.of(6 * GIB)
    image = elf((Segment(ENTRY), Segment(4 * GIB)), multiboot=multiboot_header())
    plan = plan_boot(image, layout, initrd=b"module")
    assert module_place(plan) < HOLE_START
    assert_sound(plan, layout)


# What Multiboot headers ask for ------------------------------------------------------------------


def test_a_video_mode_is_not_set_and_that_is_told() -> None:
    plan = plan_boot(elf(multiboot=multiboot_header(7)), LAYOUT)
    assert plan.protocol is BootProtocol.MULTIBOOT
    assert plan.remarks == ("its Multiboot header asks for a video mode, and none is set",)
    assert plan_boot(elf(multiboot=multiboot_header(3)), LAYOUT).remarks == ()


@pytest.mark.parametrize("skip", [0, 16, 8192 - 120, 32768 - 120 - 16])
def test_multiboot_2_only(skip: int) -> None:
    words = (
        r"Multiboot 2 header only, and Multiboot 2 is not supported; add a Multiboot 1 header or"
    )
    for image in (
        elf(multiboot=bytes(skip) + multiboot_2_header()),
        bytes(skip) + multiboot_2_header() + HLT,
    ):
        with pytest.raises(ImageError, match=words) as caught:
            plan_boot(image, LAYOUT)
        assert "\n" not in str(caught.value)
    both = elf(multiboot=multiboot_header() + bytes(4) + multiboot_2_header())
    assert plan_boot(both, LAYOUT).protocol is BootProtocol.MULTIBOOT
    with_note = pvh(multiboot=multiboot_2_header())
    assert plan_boot(with_note, LAYOUT).protocol is BootProtocol.PVH


@pytest.mark.parametrize(
    "header", [multiboot_2_header(checksum=1), b"1234" + multiboot_2_header(), bytes(32760)]
)
def test_what_is_no_multiboot_2_header(header: bytes) -> None:
    with pytest.raises(ImageError, match="no PVH note and no Multiboot header"):
        plan_boot(elf(multiboot=header), LAYOUT)
    assert plan_boot(header + HLT, LAYOUT).protocol is BootProtocol.FLAT
