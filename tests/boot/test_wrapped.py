# SPDX-License-Identifier: MIT
"""Kernels in other files: bzImage payloads entered by PVH, EFI zboot; and what others boot."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable

import pytest

from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootPlan, BootProtocol, EntryWish
from pyvmm.boot.recognise import BEGINNING, MAX_SIZE, size_limit
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import MIB

from .images import elf, multiboot_header, pvh
from .linux_images import SETUP_SIZE, bzimage, pe, with_payload, zboot
from .soundness import assert_sound
from .test_unpacking import PACKERS

MAP = AddressMap.of(64 * MIB)


def packed(title: str, image: bytes) -> bytes:
    """As Linux's build does it: behind all formats but gzip is the size."""
    suffix = b"" if title == "gzip" else len(image).to_bytes(4, "little")
    return PACKERS[title](image) + suffix


def by_pvh(image: bytes, **options: object) -> BootPlan:
    return plan_boot(image, MAP, wish=EntryWish.PVH, **options)  # type: ignore[arg-type]


def by_words(value: object) -> str:
    """Name a case by its words: an image's bytes may have the time in them."""
    return value if isinstance(value, str) else "image"


@pytest.mark.parametrize("title", PACKERS)
def test_a_bzimage_is_entered_by_pvh_without_unpacking_itself(title: str) -> None:
    plan = by_pvh(with_payload(packed(title, pvh())))
    assert_sound(plan, MAP)
    assert plan.protocol is BootProtocol.PVH
    assert plan.placements == plan_boot(pvh(), MAP).placements
    assert plan.remarks == (f"the image is unpacked with {title}: {len(pvh())} bytes",)


def test_its_header_counts_for_that_entry_too() -> None:
    image = with_payload(packed("xz", pvh()), cmdline_size=100, initrd_addr_max=8 * MIB - 1)
    with pytest.raises(UsageError, match="the image takes 100 at most"):
        by_pvh(image, command_line=b"x" * 101)
    plan = by_pvh(image, initrd=b"x")
    assert plan.initrd is not None
    assert plan.initrd.start == 8 * MIB - 4096


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (bzimage(), "names no payload"),
        (bzimage(version=0x207), "bzImage 2.07 names no payload"),
    ],
    ids=by_words,
)
def test_without_a_payload_there_is_no_such_entry(image: bytes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        by_pvh(image)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (with_payload(packed("gzip", elf())), "the ELF file has no PVH note"),
        (with_payload(packed("gzip", elf(multiboot=multiboot_header()))), "has no PVH note"),
        (with_payload(packed("gzip", b"no kernel" * 100)), "payload is no ELF file"),
        (with_payload(b"\x89LZO\0\r\n\x1a\n" + bytes(100)), "compressed with lzop"),
        (with_payload(packed("gzip", gzip.compress(pvh()))), "compressed twice"),
        (with_payload(packed("xz", pvh())[:-1] + b"\1"), "size that its payload says"),
        (with_payload(b"abc"), "payload is no ELF file"),
        (bzimage(payload_offset=64, payload_length=1 << 20), "its payload ends at"),
    ],
    ids=by_words,
)
def test_payloads_that_are_not_right(image: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        by_pvh(image)


# EFI ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [pvh, bzimage])
def test_zboot_images_are_unpacked(inner: Callable[[], bytes]) -> None:
    for pack in (gzip.compress, lzma.compress):
        plan = plan_boot(zboot(pack(inner())), MAP)
        assert_sound(plan, MAP)
        assert plan.placements == plan_boot(inner(), MAP).placements
        assert "the image is unpacked with" in plan.remarks[0]
    assert plan_boot(gzip.compress(zboot(gzip.compress(inner()))), MAP).protocol


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (zboot(gzip.compress(pvh()), 0xAA64), "EFI zboot image for arm64, not x86-64"),
        (zboot(b"", 0x5064), "EFI zboot image for riscv64"),
        (zboot(b"", 0x1234), "EFI zboot image for machine 0x1234"),
        (zboot(gzip.compress(pvh()))[:-1], r"is cut: its payload lies at 0x400\.\."),
        (zboot(gzip.compress(pvh()), size=0), "is cut: its payload lies at"),
        (zboot(gzip.compress(pvh()), offset=(1 << 32) - 1), "is cut: its payload lies at"),
        (zboot(b"")[:0x30], "is cut: its header has 56 bytes, it has 48"),
        (zboot(b"")[:0x60], "its PE header is missing"),
        (zboot(zboot(gzip.compress(pvh()))), "zboot image in another one"),
        (zboot(gzip.compress(gzip.compress(pvh()))), "compressed twice"),
        (zboot(gzip.compress(pvh())[:-9]), "gzip stream is cut off"),
        (pe(sections=(b".text", b".osrel", b".linux")), r"\(UKI\).*give the \.linux section"),
        (pe(), "EFI program for x86-64, and there is no EFI firmware"),
        (pe(0xAA64), "EFI program for arm64"),
        (bytes(0x38) + b"ARM\x64" + bytes(1000), "Linux's Image for arm64"),
        (bytes(0x38) + b"RSC\x05" + bytes(1000), "Linux's Image for RISC-V"),
        (b"\x27\x05\x19\x56" + bytes(100), "U-Boot image"),
        (b"ANDROID!" + bytes(100), "Android boot image"),
        (b"QFI\xfb" + bytes(100), "a qcow2 disk"),
    ],
    ids=by_words,
)
def test_what_others_boot_is_named(image: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        plan_boot(image, MAP)
    # Else it would be called too long for raw code before anybody has looked.
    assert size_limit(image.ljust(BEGINNING, b"\0")).most == MAX_SIZE


def test_raw_code_may_begin_like_an_efi_program() -> None:
    assert plan_boot(b"MZ" + bytes(510), MAP).protocol is BootProtocol.FLAT
    assert plan_boot(pe()[:0x90], MAP).protocol is BootProtocol.FLAT


def test_sections_are_looked_for_no_further_than_there_are_any() -> None:
    image = bytearray(pe(sections=(b".linux",)))
    struct.pack_into("<H", image, 0x80 + 6, 0xFFFF)
    with pytest.raises(ImageError, match="UKI"):
        plan_boot(bytes(image), MAP)
    struct.pack_into("<H", image, 0x80 + 20, 0xFFFF)  # the optional header's size
    with pytest.raises(ImageError, match="EFI program"):
        plan_boot(bytes(image), MAP)


def test_a_bzimage_with_an_efi_stub_is_a_bzimage() -> None:
    image = bytearray(bzimage())
    image[:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, 0x80)
    image[0x80:0x98] = pe()[0x80:0x98]
    assert plan_boot(bytes(image), MAP).protocol is BootProtocol.LINUX_64
    assert len(image) > SETUP_SIZE
