# SPDX-License-Identifier: MIT
"""Boot blocks: right ones, field by field, and every way to make one wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from pyvmm.boot.launch_format import BOOT_BLOCK, BOOT_BLOCK_MAGIC, BOOT_REGION, BOOT_RUN
from pyvmm.memory.layout import (
    GIB,
    LAUNCH_END,
    LAUNCH_TABLES,
    MIB,
    STAGING_MAX,
    WINDOW_GPA,
    WINDOW_MAX,
)

PAGE: Final = 4096
LAST = 1 << 64


@dataclass(frozen=True)
class Block:
    """A block of a guest with 2 MiB: three runs, the first with the start info, the last to enter.

    `size`, `region_count` and `run_count` are those of the tables unless given.
    """

    magic: int = BOOT_BLOCK_MAGIC
    size: int | None = None
    cpus: int = 1
    flags: int = 0
    entry: int = 0x10_0000
    start_info: int = 0x6010
    region_count: int | None = None
    run_count: int | None = None
    window_gpa: int = 0
    window_size: int = 0
    expected: bytes = bytes(48)
    reserved: bytes = bytes(16)
    regions: tuple[tuple[int, int], ...] = ((0, 2 * MIB),)
    runs: tuple[tuple[int, int, int], ...] = field(
        default=((0x6000, PAGE, PAGE), (0xEB000, PAGE, PAGE), (0x10_0000, 2 * PAGE, PAGE))
    )

    def pack(self) -> bytes:
        """As the firmware finds it, without padding."""
        regions = len(self.regions) if self.region_count is None else self.region_count
        runs = len(self.runs) if self.run_count is None else self.run_count
        size = self.right_size() if self.size is None else self.size
        header = BOOT_BLOCK.pack(
            self.magic,
            size,
            self.cpus,
            self.flags,
            self.entry,
            self.start_info,
            regions,
            runs,
            self.window_gpa,
            self.window_size,
            self.expected,
        )
        tables = [BOOT_REGION.pack(*region) for region in self.regions]
        tables += [BOOT_RUN.pack(*run) for run in self.runs]
        return b"".join((header[:112], self.reserved, *tables))

    def right_size(self) -> int:
        """What `size` has to be."""
        return BOOT_BLOCK.size + 16 * len(self.regions) + 24 * len(self.runs)

    def run_changed(self, number: int, **change: int) -> Block:
        """With one field of one run changed: gpa, source or size."""
        fields = dict(zip(("gpa", "source", "size"), self.runs[number], strict=True)) | change
        runs = list(self.runs)
        runs[number] = (fields["gpa"], fields["source"], fields["size"])
        return replace(self, runs=tuple(runs))


RIGHT = Block()
TABLES = 128
RUNS = TABLES + 16
"""Where the table of runs is, in a block with one region."""
MANY = tuple((0x10_0000 + n * PAGE, 0x10_000, PAGE) for n in range(256))

SOUND: dict[str, Block] = {
    "as it is": RIGHT,
    "most processors": replace(RIGHT, cpus=255),
    "largest window": replace(RIGHT, window_gpa=WINDOW_GPA, window_size=WINDOW_MAX),
    "four regions": replace(
        RIGHT,
        regions=((0, MIB), (MIB, MIB), (4 * GIB, PAGE), ((1 << 52) - PAGE, PAGE)),
    ),
    "all below the hole": replace(RIGHT, regions=((0, 3 * GIB),)),
    "last page below the hole": replace(
        RIGHT, regions=((0, 3 * GIB),), runs=(*RIGHT.runs, (3 * GIB - PAGE, PAGE, PAGE))
    ),
    "256 runs": replace(RIGHT, runs=((0x6000, 0x10_000, PAGE), *MANY)),
    "the end of the staging area": RIGHT.run_changed(1, source=STAGING_MAX - PAGE),
    "the same source twice": RIGHT.run_changed(1, source=2 * PAGE),
    "up to the launch's pages": RIGHT.run_changed(1, gpa=LAUNCH_TABLES - PAGE),
    "start info in the last byte of a run": replace(RIGHT, start_info=0x6FFF),
}

_OFFSETS = {"gpa": 0, "source": 8, "size": 16}


def _run(number: int, at: str = "gpa", **change: int) -> tuple[Block, int]:
    return RIGHT.run_changed(number, **change), RUNS + 24 * number + _OFFSETS[at]


def _regions(*regions: tuple[int, int], at: int = 0) -> tuple[Block, int]:
    return replace(RIGHT, regions=regions), TABLES + 16 * at


def _header(at: int, **change: object) -> tuple[Block, int]:
    make: Callable[..., Block] = replace
    return make(RIGHT, **change), at


BROKEN: dict[str, tuple[Block, int]] = {
    "other magic": _header(0, magic=BOOT_BLOCK_MAGIC + 1),
    "no magic": _header(0, magic=0),
    "no size": _header(8, size=0),
    "size of a header less a word": _header(8, size=120),
    "size of the header": _header(8, size=128),
    "size odd": _header(8, size=RIGHT.right_size() + 1),
    "a word too long": _header(8, size=RIGHT.right_size() + 8),
    "a word too short": _header(8, size=RIGHT.right_size() - 8),
    "64 KiB": _header(8, size=0x1_0000),
    "larger than 64 KiB": _header(8, size=0x1_0008),
    "largest size": _header(8, size=0xFFFF_FFF8),
    "no processors": _header(12, cpus=0),
    "256 processors": _header(12, cpus=256),
    "4 billion processors": _header(12, cpus=0xFFFF_FFFF),
    "unknown flag": _header(16, flags=4),
    "last flag": _header(16, flags=1 << 63),
    "no regions": _header(40, regions=(), region_count=0),
    "five regions": _header(40, regions=((0, MIB), *((MIB + PAGE * n, PAGE) for n in range(4)))),
    "count of regions that overflows": _header(40, region_count=0xFFFF_FFFF),
    "no runs": _header(44, runs=()),
    "2049 runs": _header(44, runs=RIGHT.runs * 683),
    "count of runs that overflows": _header(44, run_count=0xFFFF_FFFF),
    "count of runs one too high": _header(8, run_count=4),
    "window elsewhere": _header(48, window_gpa=WINDOW_GPA + PAGE, window_size=PAGE),
    "window in memory": _header(48, window_gpa=0, window_size=PAGE),
    "window without a size": _header(48, window_gpa=WINDOW_GPA),
    "window with half a page": _header(56, window_gpa=WINDOW_GPA, window_size=PAGE + 2048),
    "window too large": _header(56, window_gpa=WINDOW_GPA, window_size=WINDOW_MAX + PAGE),
    "window that overflows": _header(56, window_gpa=WINDOW_GPA, window_size=LAST - PAGE),
    "reserved": _header(112, reserved=b"\1" + bytes(15)),
    "reserved, at the end": _header(120, reserved=bytes(15) + b"\1"),
    "entry nowhere": _header(24, entry=0x10_1000),
    "entry below": _header(24, entry=0xF_FFFF),
    "entry above 4 GiB": _header(24, entry=1 << 32 | 0x10_0000),
    "entry at the end of everything": _header(24, entry=LAST - 1),
    "start info nowhere": _header(32, start_info=0x5FFF),
    "start info above": _header(32, start_info=0x7000),
    "region not at a page": _regions((0x800, 2 * MIB)),
    "region of no whole pages": _regions((0, 2 * MIB - 1)),
    "empty region": _regions((0, 0)),
    "region that overflows": _regions((PAGE, LAST - PAGE)),
    "region that ends above all addresses": _regions(
        (0, 2 * MIB), ((1 << 52) - PAGE, 2 * PAGE), at=1
    ),
    "region in the hole": _regions((0, 2 * MIB), (3 * GIB, PAGE), at=1),
    "region with the firmware": _regions((0, 2 * MIB), (4 * GIB - PAGE, PAGE), at=1),
    "region across the hole": _regions((0, 5 * GIB)),
    "region into the hole": _regions((0, 3 * GIB + PAGE)),
    "regions that overlap": _regions((0, 2 * MIB), (2 * MIB - PAGE, PAGE), at=1),
    "regions out of order": _regions((MIB, MIB), (0, MIB), at=1),
    "no region with the launch's pages": _regions((MIB, MIB)),
    "launch's pages in two regions": _regions((0, 0xE4000), (0xE4000, MIB)),
    "region above 4 GiB alone": _regions((4 * GIB, GIB)),
    "run not at a page": _run(0, gpa=0x6001),
    "run of no whole pages": _run(0, size=PAGE - 1),
    "empty run": _run(0, size=0),
    "run that overflows": _run(2, size=LAST - 0x10_0000),
    "run that wraps to another": _run(2, size=LAST - 0x10_0000 + PAGE),
    "run at the end of everything": _run(2, gpa=LAST - PAGE),
    "run above 4 GiB": _run(2, gpa=1 << 32),
    "run in the hole": _run(2, gpa=WINDOW_GPA),
    "run in the firmware": _run(2, gpa=0xFFFE_0000),
    "run behind all memory": _run(2, gpa=2 * MIB),
    "run across the end of memory": _run(2, gpa=2 * MIB - PAGE, size=2 * PAGE),
    "runs out of order": _run(1, gpa=0x5000),
    "runs that overlap": _run(1, gpa=0x6000),
    "run in the launch's tables": _run(1, gpa=LAUNCH_TABLES),
    "run in the launch's mailboxes": _run(1, gpa=LAUNCH_END - PAGE),
    "run between the launch's pages": _run(1, gpa=0xE6000),
    "run around the launch's pages": _run(1, gpa=0x8000, size=0xF0000),
    "source not at a page": _run(1, "source", source=PAGE + 8),
    "source in the block": _run(1, "source", source=0),
    "source at the end of the staging area": _run(1, "source", source=STAGING_MAX),
    "source across the end of the staging area": _run(
        2, "source", source=STAGING_MAX - PAGE, size=2 * PAGE
    ),
    "source that overflows": _run(1, "source", source=LAST - PAGE),
}
"""A block each, and where the firmware has to find the fault (offset in bytes)."""
