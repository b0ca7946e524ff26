# SPDX-License-Identifier: MIT
"""Multiboot 1: the header, the entry state and the information."""

from __future__ import annotations

import os
import struct

import pytest

from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootProtocol, GuestNeed
from pyvmm.errors import ImageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import GIB, MIB

from .images import (
    ENTRY,
    HLT,
    Segment,
    elf,
    multiboot_header,
    needs_note,
    patch_header,
    pvh,
    raw_multiboot,
)
from .soundness import assert_sound
from .test_pvh import bytes_at, memory_of

LAYOUT = AddressMap.of(64 * MIB)


def c_string(data: bytes, offset: int) -> bytes:
    return data[offset : data.index(b"\0", offset)]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("flags", [0, 1, 2, 3, 1 << 17, 0xFFFE0003])
def test_entry_state(bits: int, flags: int) -> None:
    plan = plan_boot(elf(bits=bits, multiboot=multiboot_header(flags)), LAYOUT)
    assert plan.protocol is BootProtocol.MULTIBOOT
    assert plan.entry.regs.rax == 0x2BADB002
    assert plan.entry.regs.rip == ENTRY
    assert plan.entry.regs.rflags == 2
    sregs = plan.entry.sregs
    assert sregs.cr0 & 0x80000001 == 1
    for data in (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        assert (data.base, data.limit) == (0, 0xFFFFFFFF)
    assert plan.needs is None
    assert_sound(plan, LAYOUT)


def test_information() -> None:
    layout = AddressMap.of(4 * GIB)
    initrd = b"ramdisk" * 1000
    plan = plan_boot(elf(multiboot=multiboot_header()), layout, b"hello=1", initrd)
    base = plan.entry.regs.rbx
    _, whole = memory_of(plan)["the Multiboot information"]
    info = struct.unpack_from("<18I", whole)
    assert info[0] == 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9
    assert info[1] == 639, "KiB below 1 MiB"
    assert info[2] == (3 * GIB - MIB) // 1024, "KiB above 1 MiB, up to the first hole"
    assert bytes_at(plan, info[4], 14) == b"image hello=1\0"
    count, modules, mmap_length, mmap, loader = info[5], info[6], info[11], info[12], info[16]
    assert count == 1
    assert modules % 4 == 0
    start, end, text, reserved = struct.unpack("<4I", bytes_at(plan, modules, 16))
    assert bytes_at(plan, start, end - start) == initrd
    assert start % 4096 == 0
    assert reserved == 0
    assert c_string(whole, text - base) == b"initrd"
    assert c_string(whole, loader - base) == b"pyvmm"
    raw, found = bytes_at(plan, mmap, mmap_length), []
    while raw:
        size, address, length, kind = struct.unpack_from("<IQQI", raw)
        found.append((address, length, kind))
        raw = raw[size + 4 :]
    assert found == [(entry.range.start, entry.range.size, entry.type) for entry in layout.e820()]
    assert_sound(plan, layout)


def test_the_kernel_is_told_names_as_by_qemu() -> None:
    name, initrd_name = os.fsdecode(b"dir/caf\xe9.elf"), os.fsdecode(b"\xff" * 5000)
    image = elf(multiboot=multiboot_header())
    plan = plan_boot(image, LAYOUT, b"a b", b"module", name, initrd_name=initrd_name)
    base = plan.entry.regs.rbx
    _, whole = memory_of(plan)["the Multiboot information"]
    info = struct.unpack_from("<18I", whole)
    assert bytes_at(plan, info[4], 16) == b"dir/caf\xe9.elf a b"[:16]
    (text,) = struct.unpack_from("<8xI", whole, info[6] - base)
    assert c_string(whole, text - base) == b"\xff" * 5000
    assert_sound(plan, LAYOUT)
    assert memory_of(plan_boot(image, LAYOUT, name="x"))["the command line"][1] == b"x \0"
    longest = plan_boot(image, LAYOUT, b"c" * 0xFFFF, name="n" * 4096)
    assert len(memory_of(longest)["the command line"][1]) == 0x10000 + 4097


def test_the_start_of_a_bios_data_area() -> None:
    """Xen puts its trampoline below what it says; zeroes there would be below 0."""
    plan = plan_boot(elf(multiboot=multiboot_header()), LAYOUT)
    assert bytes_at(plan, 0x400, 2) == (0x3F8).to_bytes(2, "little")
    assert bytes_at(plan, 0x40E, 2) == (0x9FC0).to_bytes(2, "little")
    assert bytes_at(plan, 0x413, 2) == (639).to_bytes(2, "little")
    image = elf((Segment(0x410, b"x"), Segment(ENTRY)), multiboot=multiboot_header())
    assert "the BIOS data area" not in memory_of(plan_boot(image, LAYOUT))
    assert "the BIOS data area" not in memory_of(plan_boot(pvh(), LAYOUT))


def test_no_initrd_no_modules() -> None:
    plan = plan_boot(elf(multiboot=multiboot_header()), LAYOUT)
    _, whole = memory_of(plan)["the Multiboot information"]
    flags, count, modules = (struct.unpack_from("<I", whole, at)[0] for at in (0, 20, 24))
    assert (flags & 1 << 3, count, modules) == (0, 0, 0)


def test_virtual_entry_becomes_physical() -> None:
    kernel = Segment(0x200000, HLT * 32, virtual=0xC0200000)
    image = elf((kernel,), bits=32, entry=0xC0200010, multiboot=multiboot_header())
    assert plan_boot(image, LAYOUT).entry.regs.rip == 0x200010
    second = Segment(0x380000, HLT * 32, virtual=0xC0300000)
    image_of_two = elf((kernel, second), bits=32, entry=0xC0300004, multiboot=multiboot_header())
    assert plan_boot(image_of_two, LAYOUT).entry.regs.rip == 0x380004
    physical = patch_header(image, "e_entry", 0x200011, bits=32)
    assert plan_boot(physical, LAYOUT).entry.regs.rip == 0x200011


def test_needs_of_an_elf() -> None:
    image = elf(notes=needs_note(1), multiboot=multiboot_header())
    assert plan_boot(image, LAYOUT).needs is GuestNeed.INTERRUPTS


def test_raw_image_by_its_addresses() -> None:
    image = raw_multiboot(prefix=16, code=b"code", load=0x180000) + b"not loaded"
    plan = plan_boot(image, LAYOUT)
    gpa, data = memory_of(plan)["the Multiboot image"]
    assert gpa == 0x180000
    assert data == image[: 16 + 32 + 4]
    assert plan.entry.regs.rip == 0x180000 + 48
    assert plan.needs is None


def test_raw_image_without_ends_is_loaded_whole() -> None:
    image = raw_multiboot(load_end=0, bss_end=0) + b"tail"
    assert memory_of(plan_boot(image, LAYOUT))["the Multiboot image"][1] == image


def test_what_precedes_the_load_address_is_left_out() -> None:
    image = raw_multiboot(load=ENTRY, prefix=16, header=ENTRY + 4, load_end=ENTRY + 37)
    gpa, data = memory_of(plan_boot(image, LAYOUT))["the Multiboot image"]
    assert (gpa, data) == (ENTRY, image[12:49])


def test_addresses_win_over_elf() -> None:
    header_at = 64 + 56
    fields = (0x200000 + header_at, 0x200000, 0, 0, 0x200000)
    plan = plan_boot(elf(multiboot=multiboot_header(1 << 16, fields)), LAYOUT)
    assert plan.entry.regs.rip == 0x200000
    assert "segment 0" not in memory_of(plan)


@pytest.mark.parametrize("offset", [0, 4, 8192 - 12])
def test_header_is_found_within_8_kib(offset: int) -> None:
    image = elf(multiboot=bytes(offset - 120 if offset > 120 else 0) + multiboot_header())
    assert plan_boot(image, LAYOUT).protocol is BootProtocol.MULTIBOOT


@pytest.mark.parametrize("skip", [8192 - 120 - 8, 8192 - 120, 9000, 1, 2, 3])
def test_header_elsewhere_or_unaligned_is_none(skip: int) -> None:
    with pytest.raises(ImageError, match="no PVH note"):
        plan_boot(elf(multiboot=bytes(skip) + multiboot_header() + bytes(64)), LAYOUT)


def test_a_wrong_checksum_is_passed_over() -> None:
    wrong = multiboot_header(flags=1 << 3, checksum=1)
    plan = plan_boot(elf(multiboot=wrong + multiboot_header()), LAYOUT)
    assert plan.protocol is BootProtocol.MULTIBOOT
    with pytest.raises(ImageError, match="no PVH note and no Multiboot header"):
        plan_boot(elf(multiboot=wrong), LAYOUT)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        *(
            (elf(multiboot=multiboot_header(7 | 1 << bit)), f"unknown features {1 << bit:#x}$")
            for bit in range(3, 16)
        ),
        (multiboot_header(0) + bytes(100), "no load addresses .* set flag 16"),
        (raw_multiboot()[:40], "Multiboot header is cut off"),
        (raw_multiboot(load=ENTRY, header=ENTRY - 1), "which the file contradicts"),
        (raw_multiboot(load=ENTRY, header=ENTRY + 17), "which the file contradicts"),
        (raw_multiboot(load_end=ENTRY), "asks to load 0 bytes"),
        (raw_multiboot(load_end=ENTRY - 1), "asks to load -1 bytes"),
        (raw_multiboot(load_end=ENTRY + 50), "asks to load 50 bytes, the file has 49"),
        (raw_multiboot(load_end=0xFFFFFFFF), "cut off or damaged"),
        (raw_multiboot(bss_end=ENTRY + 48), "bss ends at 0x100030, within"),
        (raw_multiboot(bss_end=0x8000000), "give --memory 128M or more"),
        (raw_multiboot(bss_end=0xFFFFFFFF), "MMIO hole"),
        (raw_multiboot(entry=ENTRY - 1), "entry point 0xfffff lies in no loaded segment"),
        (raw_multiboot(entry=0), "entry point 0x0 lies in no loaded segment"),
        (raw_multiboot(load=0x9F000), "reserved range 0x9fc00..0x100000"),
        (
            elf((Segment(1 << 32),), multiboot=multiboot_header(), entry=1 << 32),
            "entry 0x100000000 is above 4 GiB",
        ),
    ],
)
def test_refused(image: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        plan_boot(image, LAYOUT)
    assert "\n" not in str(caught.value)
