# SPDX-License-Identifier: MIT
"""What the firmware is given: pages, the boot block, and the digest that it must come to."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvmm.boot.launch import (
    LaunchImage,
    LaunchReport,
    boot_block,
    launch_image,
    measure,
    parse_report,
    staging,
)
from pyvmm.boot.launch_format import LaunchStatus
from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootPlan, BootProtocol, EntryState, Placement
from pyvmm.boot.tables import protected_mode
from pyvmm.errors import ImageError, UsageError
from pyvmm.hosts.registers import Regs
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.layout import (
    GIB,
    LAUNCH_END,
    LAUNCH_TABLES,
    MIB,
    STAGING_MAX,
    WINDOW_GPA,
    WINDOW_MAX,
    GpaRange,
)
from pyvmm.rules.abi import PAGE_SIZE

from .images import ENTRY, Segment, elf, private_note, pvh, pvh_note

REGIONS = (GpaRange(0, 64 * MIB),)
PRIVATE = AddressMap.of(64 * MIB, window=0)


def plan_of(placements: Sequence[tuple[int, bytes]], entry: int, start_info: int) -> BootPlan:
    return BootPlan(
        BootProtocol.PVH,
        tuple(Placement(gpa, data, f"part {n}") for n, (gpa, data) in enumerate(placements)),
        EntryState(Regs(), protected_mode()),
        None,
        entry,
        start_info,
    )


def image_of(*placements: tuple[int, bytes]) -> LaunchImage:
    return launch_image(plan_of(placements, placements[0][0], placements[-1][0]), PRIVATE)


SMALL = image_of((0x6010, b"start info"), (ENTRY, b"code"))


def memory_of(image: LaunchImage) -> dict[int, bytes]:
    return {
        gpa: bytes(page)
        for run in image.runs
        for gpa, page in zip(
            range(run.range.start, run.range.end, PAGE_SIZE), run.pages(), strict=True
        )
    }


def test_runs_are_whole_pages_that_touch() -> None:
    image = image_of(
        (0x500, b"a"), (0x6000, b"b"), (0x6FFF, b"cd"), (0x8000, bytes(4096)), (0xA000, b"e")
    )
    assert [(run.range.start, run.range.end) for run in image.runs] == [
        (0, 0x1000),
        (0x6000, 0x9000),
        (0xA000, 0xB000),
    ]
    assert image.size == 0x5000
    memory = memory_of(image)
    assert memory[0] == bytes(0x500) + b"a" + bytes(0xAFF)
    assert memory[0x6000] == b"b" + bytes(4094) + b"c"
    assert memory[0x7000] == b"d" + bytes(4095)


placements = st.lists(
    st.tuples(st.integers(0, 3 * PAGE_SIZE), st.binary(min_size=1, max_size=2 * PAGE_SIZE + 9)),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(placements)
def test_pages_hold_what_was_placed_and_zeroes(gaps: list[tuple[int, bytes]]) -> None:
    expected = bytearray(1 * MIB)
    placed = []
    gpa = 0
    for gap, data in gaps:
        gpa += gap
        placed.append((gpa, data))
        expected[gpa : gpa + len(data)] = data
        gpa += len(data)
    if gpa > LAUNCH_TABLES:
        return
    image = image_of(*placed)
    touched = {
        page for gpa, data in placed for page in range(gpa >> 12, gpa + len(data) + 4095 >> 12)
    }
    memory = memory_of(image)
    assert memory.keys() == {page << 12 for page in touched}
    for gpa, page in memory.items():
        assert page == expected[gpa : gpa + PAGE_SIZE]
    for first, second in zip(image.runs, image.runs[1:], strict=False):
        assert first.range.end < second.range.start

    whole = staging(image, REGIONS, 1, convert=False)
    area = bytearray(whole.size)
    for piece in whole.pieces:
        assert not any(area[piece.offset : piece.offset + len(piece.data)])
        area[piece.offset : piece.offset + len(piece.data)] = piece.data
    count = struct.unpack_from("<I", area, 44)[0]
    copied = bytearray(1 * MIB)
    for n in range(count):
        gpa, source, size = struct.unpack_from("<QQQ", area, 128 + 16 + 24 * n)
        copied[gpa : gpa + size] = area[source : source + size]
    assert copied == expected


def test_a_page_of_one_piece_is_not_copied() -> None:
    data = bytes(3 * PAGE_SIZE)
    image = image_of((0x1800, data))
    pages = list(image.runs[0].pages())
    assert [isinstance(page, memoryview) and page.obj is data for page in pages] == [
        False, True, True, False,
    ]  # fmt: skip
    pieces = staging(image, REGIONS, 1, convert=False).pieces
    assert pieces[1].data is data


def test_the_digest_is_the_chain_that_the_contract_says() -> None:
    digest = bytes(48)
    for gpa, page in ((0x6000, b"\0" * 16 + b"start info"), (ENTRY, b"code")):
        digest = hashlib.sha384(digest + struct.pack("<Q", gpa) + page.ljust(4096, b"\0")).digest()
    name = b"pyvmm entry\0\0\0\0\0"
    digest = hashlib.sha384(digest + name + struct.pack("<QQ", 0x6010, ENTRY)).digest()
    assert measure(SMALL) == digest


@pytest.mark.parametrize(
    "other",
    [
        image_of((0x6010, b"start infp"), (ENTRY, b"code")),
        image_of((0x6011, b"start info"), (ENTRY, b"code")),
        image_of((0x7010, b"start info"), (ENTRY, b"code")),
        replace(SMALL, entry=SMALL.entry + 1),
        replace(SMALL, start_info=SMALL.start_info + 1),
        replace(SMALL, runs=SMALL.runs[:1]),
    ],
)
def test_another_image_has_another_digest(other: LaunchImage) -> None:
    assert measure(other) != measure(SMALL)


def test_the_boot_block_byte_by_byte() -> None:
    digest = bytes(range(48))
    window = GpaRange(WINDOW_GPA, WINDOW_GPA + 2 * MIB)
    regions = (GpaRange(0, 3 * GIB), GpaRange(4 * GIB, 5 * GIB))
    block = boot_block(SMALL, regions, 4, convert=True, expected=digest, window=window)
    assert len(block) == PAGE_SIZE
    assert block[:64] == struct.pack(
        "<8sIIQQQIIQQ",
        b"PYVMBLK1", 128 + 2 * 16 + 2 * 24, 4, 3, 0x6010, ENTRY, 2, 2, WINDOW_GPA, 2 * MIB,
    )  # fmt: skip
    assert block[64:128] == digest + bytes(16)
    assert block[128:].rstrip(b"\0") == struct.pack(
        "<10Q", 0, 3 * GIB, 4 * GIB, GIB, 0x6000, 0x1000, 0x1000, ENTRY, 0x2000, 0x1000
    ).rstrip(b"\0")
    bare = boot_block(SMALL, regions, 4, convert=False)
    assert bare[16:24] == bytes(8)
    assert bare[48:128] == bytes(80)


def test_a_long_block_takes_more_than_a_page() -> None:
    image = image_of(*((0x10_0000 + 0x2000 * n, b"x") for n in range(2048)))
    block = boot_block(image, REGIONS, 1, convert=False)
    assert len(block) == 0xD000
    assert struct.unpack_from("<QQQ", block, 128 + 16) == (0x10_0000, 0xD000, 0x1000)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"cpus": 0}, "0 vCPUs"),
        ({"cpus": 256}, "256 vCPUs"),
        ({"expected": bytes(47)}, "a digest of 47 bytes"),
        ({"regions": ()}, "0 memory regions"),
        ({"regions": REGIONS * 5}, "5 memory regions"),
        (
            {"window": GpaRange(WINDOW_GPA + 4096, WINDOW_GPA + 8192)},
            "a shared window at 0xc0001000",
        ),
        ({"window": GpaRange(WINDOW_GPA, WINDOW_GPA)}, "a shared window"),
        ({"window": GpaRange(WINDOW_GPA, WINDOW_GPA + 100)}, "a shared window"),
        ({"window": GpaRange(WINDOW_GPA, WINDOW_GPA + WINDOW_MAX + 4096)}, "a shared window"),
    ],
)
def test_what_the_firmware_would_refuse(change: dict[str, object], cause: str) -> None:
    arguments: dict[str, object] = {"regions": REGIONS, "cpus": 1, "convert": False}
    with pytest.raises(UsageError, match=cause):
        staging(SMALL, **(arguments | change))  # type: ignore[arg-type]


def test_an_image_without_the_note_is_refused() -> None:
    with pytest.raises(ImageError, match="launch hello into private memory: it has no entry"):
        launch_image(plan_boot(pvh(), PRIVATE), PRIVATE, "hello")


def test_from_an_image_to_its_runs() -> None:
    data = elf([Segment(ENTRY, b"\xf4" * 5000, zeros=9000)], pvh_note() + private_note(ENTRY + 7))
    image = launch_image(plan_boot(data, PRIVATE, b"words"), PRIVATE)
    assert (image.entry, image.start_info) == (ENTRY + 7, 0x6000)
    assert [(run.range.start, run.range.size) for run in image.runs] == [
        (0, 0x1000),
        (0x6000, 0x2000),
        (0x20000, 0x1000),
        (ENTRY, 0x2000),
    ]


@pytest.mark.parametrize(
    ("placed", "entry", "start_info", "cause"),
    [
        ([(4 * GIB, b"x")], 4 * GIB, 4 * GIB, "part 0 ends at 0x100001000, above 4 GiB"),
        (
            [(LAUNCH_END - 1, b"x")],
            LAUNCH_END - 1,
            LAUNCH_END - 1,
            "firmware's own 0xe0000..0xeb000",
        ),
        ([(ENTRY, b"x")], ENTRY + 4096, ENTRY, "its entry for that, 0x101000, lies in nothing"),
        ([(ENTRY, b"x")], ENTRY, 0, "its start info for that, 0x0, lies in nothing"),
        ([(0x10_0000 + 0x2000 * n, b"x") for n in range(2049)], ENTRY, ENTRY, "in 2049 parts"),
    ],
)
def test_images_that_cannot_be_launched(
    placed: list[tuple[int, bytes]], entry: int, start_info: int, cause: str
) -> None:
    with pytest.raises(ImageError, match=cause):
        launch_image(plan_of(placed, entry, start_info), PRIVATE)


class Long(bytes):
    """As long as the staging area, for all that anybody asks."""

    def __len__(self) -> int:
        return STAGING_MAX


def test_an_image_larger_than_the_staging_area_is_refused() -> None:
    with pytest.raises(ImageError, match="at most 536866816 can be launched"):
        launch_image(plan_of([(ENTRY, Long())], ENTRY, ENTRY), PRIVATE)


def test_a_report_is_read_back() -> None:
    data = struct.pack("<8sII48sQ", b"PLYVMRR1", 61, 3, bytes(range(48)), 17) + bytes(100)
    assert parse_report(data) == LaunchReport(LaunchStatus.BROKEN, 3, bytes(range(48)), 17)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(4096),
        struct.pack("<8sII48sQ", b"PLYVMRR1", 0, 0, b"", 0)[:-1],
        struct.pack("<8sII48sQ", b"PLYVMRR2", 0, 0, b"", 0),
        struct.pack("<8sII48sQ", b"PLYVMRR1", 59, 0, b"", 0),
    ],
)
def test_what_is_no_report(data: bytes) -> None:
    assert parse_report(data) is None
