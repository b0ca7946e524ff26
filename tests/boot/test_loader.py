# SPDX-License-Identifier: MIT
"""Kinds of images, flat ones, the initrd's place, the command line; and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot import loader
from pyvmm.boot.claims import BootData, Claim, claim_of
from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootProtocol, EntryState
from pyvmm.boot.recognise import ImageKind, recognise
from pyvmm.errors import ImageError, PyvmmError, UsageError
from pyvmm.hosts.registers import Regs, Sregs
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import GIB, HOLE_START, MIB
from pyvmm.rules.abi import PAGE_SIZE

from .images import ENTRY, HLT, Segment, elf, multiboot_header, pvh, raw_multiboot
from .linux_images import bzimage
from .soundness import assert_sound
from .test_pvh import memory_of

LAYOUT = AddressMap.of(64 * MIB)
FLAT_MAX = 0x9FC00 - 0x7C00


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (pvh(), ImageKind.ELF),
        (b"\x7fELF", ImageKind.ELF),
        (bzimage(), ImageKind.BZIMAGE),
        (raw_multiboot(), ImageKind.MULTIBOOT),
        (bytes(8180) + multiboot_header(), ImageKind.MULTIBOOT),
        (bytes(8184) + multiboot_header(), ImageKind.FLAT),
        (multiboot_header(checksum=1), ImageKind.FLAT),
        (b"\xf4", ImageKind.FLAT),
        (b"\x7fEL", ImageKind.FLAT),
        (bytes(510) + b"\x55\xaa", ImageKind.FLAT),
        (bytes(FLAT_MAX), ImageKind.FLAT),
    ],
)
def test_kind_by_content(image: bytes, kind: ImageKind) -> None:
    assert recognise(memoryview(image), "boot x") is kind


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"", "the image is empty"),
        (bytes(FLAT_MAX + 1), "longer than raw code can be"),
        (bytes(16 * MIB), "no ELF file, has no Multiboot header"),
        (bzimage(version=0), "bzImage 0.00 \\(before 2.06\\)"),
    ],
)
def test_what_is_no_image(image: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        plan_boot(image, LAYOUT, name="dir/thing")
    assert str(caught.value).startswith("cannot boot dir/thing: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image", [b"\xb0\x2a\xe6\xf4\xf4", bytes(510) + b"\x55\xaa"])
def test_flat_is_entered_like_a_boot_sector(image: bytes) -> None:
    plan = plan_boot(image, LAYOUT)
    assert plan.protocol is BootProtocol.FLAT
    assert memory_of(plan) == {"the flat image": (0x7C00, image)}
    regs, sregs = plan.entry.regs, plan.entry.sregs
    assert (regs.rip, regs.rsp, regs.rdx, regs.rflags) == (0x7C00, 0x7C00, 0x80, 2)
    assert sregs.cr0 & 0x80000001 == 0, "real mode"
    assert sregs.efer == sregs.cr4 == 0
    for segment in (sregs.cs, sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss):
        assert (segment.base, segment.selector, segment.limit) == (0, 0, 0xFFFF)
        assert (segment.present, segment.s, segment.db, segment.g) == (1, 1, 0, 0)
    assert (sregs.cs.type, sregs.ds.type) == (0xB, 0x3)
    assert plan.needs is None
    assert_sound(plan, LAYOUT)


def test_the_largest_flat_image() -> None:
    layout = AddressMap.of(2 * MIB)
    assert_sound(plan_boot(bytes(FLAT_MAX), layout), layout)


@pytest.mark.parametrize(
    ("image", "command_line", "initrd", "error", "words"),
    [
        (pvh(), b"a\0b", None, UsageError, "contains a zero byte"),
        (pvh(), b"x" * 0x10000, None, UsageError, "65536 bytes, at most 65535 fit"),
        (HLT, b"x", None, UsageError, "no way to be given a command line"),
        (HLT, b"", b"x", UsageError, "no way to be given an initrd"),
        (pvh(), b"", b"", ImageError, "the initrd is empty"),
    ],
)
def test_command_line_and_initrd_that_cannot_be(
    image: bytes, command_line: bytes, initrd: bytes | None, error: type[PyvmmError], words: str
) -> None:
    with pytest.raises(error, match=words):
        plan_boot(image, LAYOUT, command_line, initrd)


# The initrd's place ------------------------------------------------------------------------------


def initrd_place(layout: AddressMap, size: int, *segments: Segment) -> int:
    image = pvh(segments=(Segment(ENTRY), *segments))
    plan = plan_boot(image, layout, initrd=bytes(size))
    assert_sound(plan, layout)
    (gpa,) = (p.gpa for p in plan.placements if p.what == "the initrd")
    return gpa


@pytest.mark.parametrize(
    ("memory", "size", "segments", "expected"),
    [
        (64 * MIB, 1, (), 64 * MIB - PAGE_SIZE),
        (64 * MIB, PAGE_SIZE, (), 64 * MIB - PAGE_SIZE),
        (64 * MIB, PAGE_SIZE + 1, (), 64 * MIB - 2 * PAGE_SIZE),
        (8 * GIB, PAGE_SIZE, (), HOLE_START - PAGE_SIZE),
        # Kept off what is zero-filled, too.
        (64 * MIB, 1, (Segment(63 * MIB, HLT, zeros=MIB - 1),), 63 * MIB - PAGE_SIZE),
        # The gap above this segment is just large enough, above the next a byte too small.
        (64 * MIB, 4096, (Segment(63 * MIB, HLT, zeros=MIB - 4097),), 64 * MIB - 4096),
        (64 * MIB, 5000, (Segment(64 * MIB - 8192, HLT),), 64 * MIB - 8192 - 8192),
        (64 * MIB, 4096, (Segment(64 * MIB - 8192, HLT),), 64 * MIB - 4096),
    ],
)
def test_initrd_goes_as_high_as_it_can(
    memory: int, size: int, segments: tuple[Segment, ...], expected: int
) -> None:
    assert initrd_place(AddressMap.of(memory), size, *segments) == expected


@pytest.mark.parametrize(
    ("memory", "size", "words"),
    [
        (2 * MIB, MIB, r"initrd of 1048576 bytes does not fit beside the kernel; give --memory 3M"),
        (4 * MIB, 4 * MIB, r"give --memory 6M"),
    ],
)
def test_initrd_too_large(memory: int, size: int, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        plan_boot(pvh(), AddressMap.of(memory), initrd=bytes(size))
    advised = int(caught.value.remedy.removeprefix("give --memory ").removesuffix("M"))
    plan_boot(pvh(), AddressMap.of(advised * MIB), initrd=bytes(size))


def test_a_kernel_too_large_is_the_kernels_fault() -> None:
    image = pvh(segments=(Segment(ENTRY, HLT, zeros=64 * MIB),))
    with pytest.raises(ImageError, match=r"segment 1 .* give --memory 66M or more"):
        plan_boot(image, LAYOUT, initrd=HLT)


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (claim_of(0x9FBFF, b"xx", "a table"), "a table at 0x9fbff..0x9fc01 runs into"),
        (claim_of(64 * MIB, b"x", "a table"), "a table at 0x4000000..0x4000001 lies outside"),
        (claim_of(ENTRY, b"x", "a table"), "overlaps a table|a table at .* overlaps"),
    ],
)
def test_boot_data_are_checked_like_everything_else(
    claim: Claim, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = EntryState(Regs(), Sregs())
    monkeypatch.setattr(loader, "pvh_boot_data", lambda *_, **__: BootData((claim,), state))
    with pytest.raises(ImageError, match=words):
        plan_boot(pvh(), LAYOUT)


def test_initrd_that_cannot_lie_below_the_hole() -> None:
    kernel = Segment(0x200000, HLT, zeros=HOLE_START - 0x200000 - PAGE_SIZE)
    image = pvh(segments=(Segment(ENTRY, HLT, zeros=0xFFFFF), kernel))
    with pytest.raises(ImageError, match="does not fit beside the kernel below 3 GiB"):
        plan_boot(image, AddressMap.of(8 * GIB), initrd=bytes(2 * PAGE_SIZE))


@given(
    starts=st.lists(st.integers(257, 511), max_size=4, unique=True),
    lengths=st.lists(st.integers(1, 60 * PAGE_SIZE), min_size=4, max_size=4),
    size=st.integers(1, 200 * PAGE_SIZE),
)
def test_no_higher_page_would_do(starts: list[int], lengths: list[int], size: int) -> None:
    """Against a search of every page of a guest with 2 MiB."""
    layout = AddressMap.of(2 * MIB)
    starts = sorted(starts)
    ends = [*(start * PAGE_SIZE for start in starts[1:]), 2 * MIB]
    segments = [
        Segment(start * PAGE_SIZE, HLT, zeros=min(length, end - start * PAGE_SIZE) - 1)
        for start, end, length in zip(starts, ends, lengths, strict=False)
    ]
    taken = [(ENTRY, ENTRY + 1), *((s.gpa, s.gpa + 1 + s.zeros) for s in segments)]
    free = [
        gpa
        for gpa in range(MIB, 2 * MIB - size + 1, PAGE_SIZE)
        if all(end <= gpa or gpa + size <= start for start, end in taken)
    ]
    if free:
        assert initrd_place(layout, size, *segments) == max(free)
    else:
        with pytest.raises(ImageError, match="the initrd"):
            initrd_place(layout, size, *segments)


def test_elf_that_cannot_be_entered() -> None:
    with pytest.raises(ImageError, match=r"no PVH note .* add a XEN_ELFNOTE_PHYS32_ENTRY note"):
        plan_boot(elf(), LAYOUT)
