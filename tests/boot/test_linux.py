# SPDX-License-Identifier: MIT
"""bzImages: their fields by version, their places, the state and the page that they are given."""

from __future__ import annotations

import struct

import pytest

from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootPlan, BootProtocol, EntryWish
from pyvmm.errors import ImageError, UsageError
from pyvmm.hosts.registers import Cr0, Cr4, Efer
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import BOOT_PAGE_TABLES, GIB, MIB, PVH_START_INFO, ZERO_PAGE

from .images import HLT, note, pvh, pvh_note
from .linux_images import DEBIAN, ENDS, bzimage, field
from .soundness import assert_sound

MAP = AddressMap.of(64 * MIB)


def plan_of(image: bytes, layout: AddressMap = MAP, **options: object) -> BootPlan:
    plan = plan_boot(image, layout, **options)  # type: ignore[arg-type]
    assert_sound(plan, layout)
    return plan


def placed(plan: BootPlan, what: str) -> tuple[int, bytes]:
    (one,) = (one for one in plan.placements if what in one.what)
    return one.gpa, bytes(one.data)


def zero_page(plan: BootPlan) -> bytes:
    gpa, page = placed(plan, "zero page")
    assert plan.entry.regs.rsi == gpa
    assert len(page) == 4096
    return page


def test_a_kernel_of_today_is_entered_in_long_mode() -> None:
    code = bytes(range(256)) * 8
    plan = plan_of(bzimage(code))
    assert plan.protocol is BootProtocol.LINUX_64
    assert placed(plan, "kernel") == (16 * MIB, code)
    assert plan.entry.regs.rip == 16 * MIB + 0x200
    sregs = plan.entry.sregs
    assert (sregs.cs.selector, sregs.ds.selector, sregs.ss.selector) == (0x10, 0x18, 0x18)
    assert (sregs.cs.l, sregs.cs.db) == (1, 0)
    assert sregs.cr0 & (Cr0.PE | Cr0.PG) == Cr0.PE | Cr0.PG
    assert sregs.cr4 & Cr4.PAE
    assert sregs.efer == Efer.LME | Efer.LMA
    assert not plan.entry.regs.rflags & 1 << 9


def test_selectors_are_those_of_the_descriptor_table() -> None:
    """A kernel that reloads them must get what it has."""
    for wish in (EntryWish.LONG, EntryWish.PROTECTED):
        plan = plan_of(bzimage(), wish=wish)
        gpa, table = placed(plan, "GDT")
        sregs = plan.entry.sregs
        assert (sregs.gdt.base, sregs.gdt.limit) == (gpa, len(table) - 1)
        for segment in (sregs.cs, sregs.ds, sregs.tr):
            (entry,) = struct.unpack_from("<Q", table, segment.selector)
            assert entry >> 40 & 0xF == segment.type
            assert entry >> 47 & 1 == 1
            assert entry >> 53 & 1 == segment.l
            assert entry >> 54 & 1 == segment.db


def test_the_first_four_gibibytes_are_mapped_where_they_are() -> None:
    plan = plan_of(bzimage())
    base, tables = placed(plan, "page tables")
    assert plan.entry.sregs.cr3 == base
    assert base % 4096 == 0

    def walk(address: int) -> int:
        at = base
        for shift in (39, 30):
            (entry,) = struct.unpack_from("<Q", tables, at - base + (address >> shift & 511) * 8)
            assert entry & 3 == 3
            at = entry & ~0xFFF
        (entry,) = struct.unpack_from("<Q", tables, at - base + (address >> 21 & 511) * 8)
        assert entry & 0x83 == 0x83
        return int(entry & ~0x1FFFFF) | address & 0x1FFFFF

    for address in (0, 0x1FFFFF, 16 * MIB, 0x7FFF_FFFF, 3 * GIB + 5, 4 * GIB - 1):
        assert walk(address) == address
    assert not any(tables[8:4096])


@pytest.mark.parametrize("version", sorted(set(ENDS) - {0}))
def test_only_the_header_goes_to_the_zero_page(version: int) -> None:
    """0x1f1 to 0x202 + the byte at 0x201 (boot.rst, 1.14); a byte beyond makes Linux forget all."""
    image = bytearray(bzimage(version=version))
    for offset in (*range(0x1F1), *range(ENDS[version], 0x600)):
        image[offset] = 0xA5
    page = zero_page(plan_of(bytes(image), initrd=b"x" * 10, command_line=b"a b"))
    filled = {
        *range(0x1FA, 0x1FC), 0x210, *range(0x214, 0x220), *range(0x228, 0x22C)
    }  # fmt: skip
    for offset in range(0x1F1, ENDS[version]):
        if offset not in filled:
            assert page[offset] == image[offset], hex(offset)
    told = {
        *range(0x070, 0x078), *range(0x0C0, 0x0CC), *range(0x1E0, 0x1E4), 0x1E8,
        *range(0x2D0, 0x2D0 + 20 * len(MAP.e820())),
    }  # fmt: skip
    for offset in (*range(0x1F1), *range(ENDS[version], 4096)):
        assert page[offset] == 0 or offset in told, hex(offset)


def test_zero_page_tells_of_memory_and_of_its_inputs() -> None:
    layout = AddressMap.of(6 * GIB)
    plan = plan_of(bzimage(), layout, initrd=b"r" * 5000, command_line=b"quiet", rsdp=0xE0000)
    page = zero_page(plan)
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * n) for n in range(page[0x1E8])]
    assert entries == [(one.range.start, one.range.size, one.type) for one in layout.e820()]
    assert struct.unpack_from("<Q", page, 0x70) == (0xE0000,)
    assert (field(page, "cmd_line_ptr"), b"quiet\0") == placed(plan, "command line")
    gpa, _ = placed(plan, "initrd")
    assert (field(page, "ramdisk_image"), field(page, "ramdisk_size")) == (gpa, 5000)
    assert page[0x210] == 0xFF
    assert field(page, "code32_start") == 16 * MIB


def test_without_initrd_and_tables_the_page_names_none() -> None:
    page = zero_page(plan_of(bzimage(ramdisk_image=5, ramdisk_size=6)))
    assert not any(page[0x70:0x78])
    assert (field(page, "ramdisk_image"), field(page, "ramdisk_size")) == (0, 0)


def test_32_bit_entry_where_there_is_no_other() -> None:
    for fields in ({"xloadflags": 0}, {"version": 0x20B}):
        plan = plan_of(bzimage(**fields))
        assert plan.protocol is BootProtocol.LINUX_32
        assert plan.entry.regs.rip == 16 * MIB
        assert plan.entry.sregs.cr0 & Cr0.PG == 0
        assert (plan.entry.sregs.cs.db, plan.entry.sregs.cs.l) == (1, 0)
        assert (plan.entry.regs.rbp, plan.entry.regs.rdi, plan.entry.regs.rbx) == (0, 0, 0)


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({}, 16 * MIB),
        ({"pref_address": 0x1230000}, 20 * MIB),  # rounded up to its alignment
        ({"pref_address": 0x1230000, "relocatable_kernel": 0}, 0x1230000),
        ({"pref_address": 0}, 2 * MIB),
        ({"pref_address": 0, "relocatable_kernel": 0}, MIB),
        ({"version": 0x209}, 2 * MIB),
        ({"version": 0x206, "relocatable_kernel": 0, "kernel_alignment": 0}, MIB),
    ],
)
def test_load_address(fields: dict[str, int], start: int) -> None:
    assert placed(plan_of(bzimage(**fields)), "kernel")[0] == start


def test_nothing_lies_where_a_kernel_unpacks_itself() -> None:
    """init_size counts from the aligned load address; the initrd is the first to be overwritten."""
    layout = AddressMap.of(64 * MIB)
    image = bzimage(init_size=40 * MIB, pref_address=0x1230000)
    plan = plan_of(image, layout, initrd=bytes(4 * MIB))
    gpa, _ = placed(plan, "initrd")
    assert gpa >= 20 * MIB + 40 * MIB
    with pytest.raises(ImageError, match=r"does not fit beside the kernel; give --memory 81M"):
        plan_boot(image, layout, initrd=bytes(20 * MIB))
    plan_of(image, AddressMap.of(81 * MIB), initrd=bytes(20 * MIB))


def test_a_kernel_that_says_no_init_size_gets_room_to_unpack() -> None:
    code = bytes(8 * MIB)
    plan = plan_of(bzimage(code, version=0x209), initrd=b"x")
    assert placed(plan, "initrd")[0] >= (2 + 3 * 8) * MIB
    with pytest.raises(ImageError, match="give --memory 26M or more"):
        plan_boot(bzimage(code, version=0x209), AddressMap.of(20 * MIB))


def test_more_memory_is_asked_for_where_it_does_not_fit() -> None:
    with pytest.raises(ImageError, match=r"outside the guest's 16 MiB.*give --memory 20M or more"):
        plan_boot(bzimage(), AddressMap.of(16 * MIB))
    plan_of(bzimage(), AddressMap.of(20 * MIB))


def test_initrd_lies_at_the_top_of_what_the_image_reaches() -> None:
    layout = AddressMap.of(6 * GIB)
    plan = plan_of(bzimage(), layout, initrd=b"x" * 5000)
    assert placed(plan, "initrd")[0] == 0x8000_0000 - 8192
    plan = plan_of(bzimage(initrd_addr_max=0x37FF_FFFF), layout, initrd=b"x" * 5000)
    assert placed(plan, "initrd")[0] == 0x3800_0000 - 8192
    plan = plan_of(bzimage(initrd_addr_max=0x37FF_F123), layout, initrd=b"x" * 0x124)
    assert placed(plan, "initrd")[0] == 0x37FF_F000
    plan = plan_of(bzimage(initrd_addr_max=0x37FF_F123), layout, initrd=b"x" * 0x125)
    assert placed(plan, "initrd")[0] == 0x37FF_E000
    plan = plan_of(bzimage(initrd_addr_max=0xFFFF_FFFF), layout, initrd=b"x" * 5000)
    assert placed(plan, "initrd")[0] == 3 * GIB - 8192


def test_initrd_goes_above_4_gib_only_for_an_image_that_takes_it_there() -> None:
    layout = AddressMap.of(6 * GIB)
    low = {"initrd_addr_max": MIB + 4095}
    plan = plan_of(bzimage(**low), layout, initrd=b"x" * 5000)
    gpa, _ = placed(plan, "initrd")
    assert gpa == 7 * GIB - 8192
    page = zero_page(plan)
    (high, high_size) = struct.unpack_from("<II", page, 0xC0)
    assert (high << 32 | field(page, "ramdisk_image"), high_size) == (gpa, 0)
    for fields, wish in (({"xloadflags": 1}, EntryWish.AUTO), ({}, EntryWish.PROTECTED)):
        with pytest.raises(ImageError, match=r"below 0x100fff, the image's initrd_addr_max"):
            plan_boot(bzimage(**low, **fields), layout, initrd=b"x" * 5000, wish=wish)


def test_a_command_line_is_as_long_as_the_image_takes() -> None:
    plan_of(bzimage(), command_line=b"x" * 2047)
    with pytest.raises(UsageError, match=r"has 2048 bytes, and the image takes 2047 at most"):
        plan_boot(bzimage(), MAP, b"x" * 2048)
    with pytest.raises(UsageError, match="the image takes 255 at most"):
        plan_boot(bzimage(cmdline_size=0), MAP, b"x" * 256)


def test_a_vmlinux_takes_as_much_as_linux_does() -> None:
    """It has no header that says so; Linux would cut it without a word."""
    vmlinux = pvh(notes=pvh_note() + note(b"Linux", 0x100, b"func"))
    plan_of(vmlinux, command_line=b"x" * 2047)
    with pytest.raises(UsageError, match=r"takes 2047 at most \(Linux's COMMAND_LINE_SIZE\)"):
        plan_boot(vmlinux, MAP, b"x" * 2048)
    plan_of(pvh(), command_line=b"x" * 4096)


def test_the_wished_entry_is_used_or_refused() -> None:
    assert plan_of(bzimage(), wish=EntryWish.PROTECTED).protocol is BootProtocol.LINUX_32
    assert plan_of(bzimage(), wish=EntryWish.LONG).protocol is BootProtocol.LINUX_64
    with pytest.raises(UsageError, match="has no 64-bit entry"):
        plan_boot(bzimage(xloadflags=0), MAP, wish=EntryWish.LONG)
    with pytest.raises(UsageError, match="has no 32-bit entry"):
        plan_boot(bzimage(code32_start=0), MAP, wish=EntryWish.PROTECTED)
    for wish in (EntryWish.LONG, EntryWish.PROTECTED, EntryWish.REAL):
        with pytest.raises(UsageError, match=f"an ELF file, which has no {wish.value}-bit entry"):
            plan_boot(pvh(), MAP, wish=wish)
    assert plan_of(pvh(), wish=EntryWish.PVH).protocol is BootProtocol.PVH
    with pytest.raises(UsageError, match="raw code, which has no PVH entry"):
        plan_boot(HLT, MAP, wish=EntryWish.PVH)


def test_an_image_for_real_mode_is_told_from_its_header() -> None:
    with pytest.raises(ImageError, match="it is entered in real mode, and here is no BIOS"):
        plan_boot(bzimage(code32_start=0, xloadflags=0), MAP)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (bzimage(version=0x204), r"looks like a bzImage 2\.04 \(before 2\.06\)"),
        (bzimage()[:0x23B], "bzImage that is cut: its setup header needs 572 bytes, it has 571"),
        (bzimage()[:0x600], "that is cut: setup says 1536 bytes, and code behind them"),
        (bzimage()[:0x700], "that is cut: setup says 2560 bytes, it has 1792"),
        (bzimage(syssize=0x10_0000), "that is cut: setup says 16778752 bytes, it has 2560"),
        (bzimage(loadflags=0), "it is a zImage"),
        (bzimage(kernel_alignment=0x300000), "its kernel_alignment 0x300000 is no power of two"),
        (bzimage(pref_address=(1 << 64) - 4096), "pref_address 0xfffffffffffff000 leaves no room"),
        (bzimage(jump=0x10EB), r"ends at 0x212, where 0x264 is the least"),
        (bzimage(version=0x206, jump=0x39EB), r"ends at 0x23b, where 0x23c is the least"),
    ],
)
def test_what_is_wrong_is_named(image: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        plan_boot(image, MAP)


@pytest.mark.parametrize("fields", [{}, {"relocatable_kernel": 0}])
def test_a_kernel_for_above_4_gib_is_not_entered(fields: dict[str, int]) -> None:
    """The identity map, and the 32-bit entry, end there."""
    with pytest.raises(ImageError, match=r"runs at 0x140000000 \(pref_address\), and its entry"):
        plan_boot(bzimage(pref_address=5 * GIB, **fields), AddressMap.of(9 * GIB))


def test_a_file_may_lack_the_last_bytes_of_a_paragraph() -> None:
    """Sizes are in units of 16, and memtest86+ is not padded to them."""
    code = HLT * 1001
    assert placed(plan_of(bzimage(code)), "kernel")[1] == code
    assert placed(plan_of(bzimage(code, syssize=10)), "kernel")[1] == code[:160]
    assert placed(plan_of(bzimage(code, syssize=0)), "kernel")[1] == code


def test_debian_fields_are_what_the_tests_are_made_of() -> None:
    assert field(bzimage(), "init_size") == DEBIAN["init_size"]


def test_pvh_kernels_are_told_of_the_tables() -> None:
    plan = plan_of(pvh(), rsdp=0xE0000)
    gpa, info = placed(plan, "start info")
    assert gpa == PVH_START_INFO
    assert struct.unpack_from("<Q", info, 32) == (0xE0000,)


def test_tables_make_way_for_a_kernel_that_wants_their_place() -> None:
    image = bzimage(
        pref_address=ZERO_PAGE, relocatable_kernel=0, init_size=0x10000, kernel_alignment=1
    )
    plan = plan_of(image)
    assert plan.entry.regs.rsi != ZERO_PAGE
    assert plan.entry.sregs.cr3 != BOOT_PAGE_TABLES
    assert plan.entry.sregs.cr3 % 4096 == 0
