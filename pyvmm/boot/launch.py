# SPDX-License-Identifier: MIT
"""A private launch: what the firmware copies, what it measures, and what it says afterwards. Pure.

The other side is ``firmware/`` (its README.md tells the course), the structures are in
`pyvmm.boot.launch_format`. All addresses are GPAs in bytes, all ends exclusive.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pyvmm.boot.launch_format import (
    BOOT_BLOCK,
    BOOT_BLOCK_MAGIC,
    BOOT_CPUS_MAX,
    BOOT_REGION,
    BOOT_REGIONS_MAX,
    BOOT_RUN,
    BOOT_RUNS_MAX,
    DIGEST_BYTES,
    ENTRY_RECORD,
    ENTRY_RECORD_NAME,
    LAUNCH_REPORT,
    LAUNCH_REPORT_MAGIC,
    BootFlag,
    LaunchStatus,
)
from pyvmm.boot.plan import BootPlan, Placement
from pyvmm.errors import ImageError, UsageError
from pyvmm.memory.address_map import AddressMap, RangeKind
from pyvmm.memory.layout import (
    HOLE_END,
    LAUNCH_END,
    LAUNCH_TABLES,
    WINDOW_GPA,
    WINDOW_MAX,
    GpaRange,
)
from pyvmm.rules.abi import PAGE_SIZE

_LAUNCH_PAGES = GpaRange(LAUNCH_TABLES, LAUNCH_END)


@dataclass(frozen=True, slots=True)
class LaunchRun:
    """Whole pages that are launched together: `pieces` lie within, ascending; the rest is zero."""

    range: GpaRange
    pieces: tuple[Placement, ...]

    def pages(self) -> Iterator[bytes | memoryview]:
        """The contents, page by page; a page that one piece fills is a slice of it."""
        pieces = iter(self.pieces)
        piece = next(pieces, None)
        for gpa in range(self.range.start, self.range.end, PAGE_SIZE):
            if piece and piece.gpa <= gpa and gpa + PAGE_SIZE <= piece.gpa + len(piece.data):
                yield memoryview(piece.data)[gpa - piece.gpa :][:PAGE_SIZE]
            else:
                page = bytearray(PAGE_SIZE)
                while piece and piece.gpa < gpa + PAGE_SIZE:
                    first = max(piece.gpa, gpa)
                    part = memoryview(piece.data)[first - piece.gpa : gpa + PAGE_SIZE - piece.gpa]
                    page[first - gpa : first - gpa + len(part)] = part
                    if piece.gpa + len(piece.data) > gpa + PAGE_SIZE:
                        break
                    piece = next(pieces, None)
                yield bytes(page)
            if piece and piece.gpa + len(piece.data) == gpa + PAGE_SIZE:
                piece = next(pieces, None)


@dataclass(frozen=True, slots=True)
class LaunchImage:
    """Image of a private launch: `runs`, ascending and apart from each other, all below 4 GiB.

    `entry` and `start_info` lie in runs. The pieces are those of the plan, not copies of them.
    """

    runs: tuple[LaunchRun, ...]
    entry: int
    start_info: int

    @property
    def size(self) -> int:
        """Bytes in all runs."""
        return sum(run.range.size for run in self.runs)


@dataclass(frozen=True, slots=True)
class StagingPiece:
    """`data` belongs `offset` bytes into the staging area."""

    offset: int
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Staging:
    """The staging area: `size` bytes (whole pages), zero but for `pieces`, which do not overlap."""

    size: int
    pieces: tuple[StagingPiece, ...]


@dataclass(frozen=True, slots=True)
class LaunchReport:
    """Report of the firmware: the launch's status, and the digest of all it had measured by then.

    `pages` counts measured pages. `detail` is, for BROKEN, where in the boot block the fault is (an
    offset in bytes); for REFUSED, the GPA that was to become private; otherwise 0.
    """

    status: LaunchStatus
    pages: int
    digest: bytes
    detail: int


def launch_image(plan: BootPlan, address_map: AddressMap, name: str = "image") -> LaunchImage:
    """List the memory that the firmware copies for `plan`: placements, joined and rounded to pages.

    `address_map` is that of a private launch, `name` is for error texts only. Raises `ImageError`
    for an image without an entry for a private launch, or one that wants memory above 4 GiB or
    where the launch itself takes place; or that has more of it than the staging area and the boot
    block take.
    """
    attempt = f"launch {name} into private memory"
    if plan.private_entry is None or plan.start_info is None:
        raise ImageError(
            attempt,
            plan.private_flaw or "it has no entry for that",
            "give it a pyvmm note of type 2, or run it without private memory",
        )
    runs = tuple(_runs(plan.placements))
    for run in runs:
        if run.range.end > HOLE_END:
            raise ImageError(
                attempt,
                f"{run.pieces[-1].what} ends at {run.range.end:#x}, above 4 GiB",
                "link it below 3 GiB",
            )
        if run.range.overlaps(_LAUNCH_PAGES):
            raise ImageError(
                attempt,
                f"{run.pieces[0].what} lies in the firmware's own "
                f"{_LAUNCH_PAGES.start:#x}..{_LAUNCH_PAGES.end:#x}",
                "link it at 1 MiB or above",
            )
    for what, gpa in (("entry", plan.private_entry), ("start info", plan.start_info)):
        if not any(run.range.contains(gpa, 1) for run in runs):
            raise ImageError(
                attempt, f"its {what} for that, {gpa:#x}, lies in nothing that is loaded"
            )
    if len(runs) > BOOT_RUNS_MAX:
        raise ImageError(attempt, f"it is in {len(runs)} parts, more than {BOOT_RUNS_MAX}")
    image = LaunchImage(runs, plan.private_entry, plan.start_info)
    staging_room = address_map.slot(RangeKind.STAGING).range.size
    room = staging_room - _block_room(len(runs), BOOT_REGIONS_MAX)
    if image.size > room:
        raise ImageError(
            attempt, f"it has {image.size} bytes, and at most {room} can be launched", "shrink it"
        )
    return image


def _runs(placements: Sequence[Placement]) -> Iterator[LaunchRun]:
    """Placements, ascending, as runs: those whose pages touch or are the same become one."""
    together: list[Placement] = []
    end = 0
    for placement in placements:
        if together and placement.gpa // PAGE_SIZE * PAGE_SIZE > end:
            yield _run(together, end)
            together = []
        together.append(placement)
        end = _whole_pages(placement.gpa + len(placement.data))
    if together:
        yield _run(together, end)


def _run(pieces: Sequence[Placement], end: int) -> LaunchRun:
    return LaunchRun(GpaRange(pieces[0].gpa // PAGE_SIZE * PAGE_SIZE, end), tuple(pieces))


def _whole_pages(size: int) -> int:
    return -(-size // PAGE_SIZE) * PAGE_SIZE


def measure(image: LaunchImage) -> bytes:
    """The launch digest, 48 bytes: what the firmware computes of the same image.

    A chain of SHA-384 over all pages with their addresses, and then the entry and the start info.
    """
    digest = bytes(DIGEST_BYTES)
    for run in image.runs:
        gpas = range(run.range.start, run.range.end, PAGE_SIZE)
        for gpa, page in zip(gpas, run.pages(), strict=True):
            sha = hashlib.sha384(digest + gpa.to_bytes(8, "little"))
            sha.update(page)
            digest = sha.digest()
    record = ENTRY_RECORD.pack(ENTRY_RECORD_NAME, image.entry, image.start_info)
    return hashlib.sha384(digest + record).digest()


def boot_block(
    image: LaunchImage,
    regions: Sequence[GpaRange],
    cpus: int,
    *,
    convert: bool,
    expected: bytes | None = None,
    window: GpaRange | None = None,
) -> bytes:
    """The boot block, zero-padded to whole pages: the payload follows it run by run.

    `regions` is all RAM, ascending. `convert`: make it private by hypercalls. `expected`: the only
    digest to launch with. `window`: the shared window, None for none. Raises `UsageError` for what
    the firmware would refuse.
    """
    attempt = "prepare a private launch"
    if not 1 <= cpus <= BOOT_CPUS_MAX:
        raise UsageError(attempt, f"{cpus} vCPUs, not 1 to {BOOT_CPUS_MAX}", "ask for fewer")
    if expected is not None and len(expected) != DIGEST_BYTES:
        raise UsageError(
            attempt,
            f"a digest of {len(expected)} bytes, not {DIGEST_BYTES}",
            "take pyvmm measure's",
        )
    if not 1 <= len(regions) <= BOOT_REGIONS_MAX:
        raise UsageError(attempt, f"{len(regions)} memory regions, not 1 to {BOOT_REGIONS_MAX}")
    if window is not None and (
        window.start != WINDOW_GPA or window.size % PAGE_SIZE or not 0 < window.size <= WINDOW_MAX
    ):
        raise UsageError(
            attempt,
            f"a shared window at {window.start:#x}..{window.end:#x}",
            f"give it whole pages, at most {WINDOW_MAX >> 20} MiB",
        )
    room = _block_room(len(image.runs), len(regions))
    flags = BootFlag.CONVERT if convert else BootFlag(0)
    if expected is not None:
        flags |= BootFlag.EXPECT
    header = BOOT_BLOCK.pack(
        BOOT_BLOCK_MAGIC,
        _block_size(len(image.runs), len(regions)),
        cpus,
        flags,
        image.entry,
        image.start_info,
        len(regions),
        len(image.runs),
        window.start if window else 0,
        window.size if window else 0,
        expected or b"",
    )
    tables = [BOOT_REGION.pack(region.start, region.size) for region in regions]
    tables += [
        BOOT_RUN.pack(run.range.start, source, run.range.size)
        for run, source in zip(image.runs, _sources(image, room), strict=True)
    ]
    return b"".join((header, *tables)).ljust(room, b"\0")


def staging(
    image: LaunchImage,
    regions: Sequence[GpaRange],
    cpus: int,
    *,
    convert: bool,
    expected: bytes | None = None,
    window: GpaRange | None = None,
) -> Staging:
    """The staging area for `image`: the boot block (see `boot_block`) and the payload behind it."""
    block = boot_block(image, regions, cpus, convert=convert, expected=expected, window=window)
    pieces = [StagingPiece(0, block)]
    for run, source in zip(image.runs, _sources(image, len(block)), strict=True):
        pieces += (
            StagingPiece(source + piece.gpa - run.range.start, piece.data) for piece in run.pieces
        )
    return Staging(len(block) + image.size, tuple(pieces))


def _block_size(runs: int, regions: int) -> int:
    return BOOT_BLOCK.size + regions * BOOT_REGION.size + runs * BOOT_RUN.size


def _block_room(runs: int, regions: int) -> int:
    return _whole_pages(_block_size(runs, regions))


def _sources(image: LaunchImage, first: int) -> list[int]:
    """Compute the GPA of each run's payload in the staging area, the first one at `first`."""
    return list(accumulate((run.range.size for run in image.runs[:-1]), initial=first))


def parse_report(data: bytes) -> LaunchReport | None:
    """The launch report at the start of `data`, the firmware's memory; None where there is none."""
    if len(data) < LAUNCH_REPORT.size:
        return None
    magic, status, pages, digest, detail = LAUNCH_REPORT.unpack_from(data)
    if magic != LAUNCH_REPORT_MAGIC or status not in set(LaunchStatus):
        return None
    return LaunchReport(LaunchStatus(status), pages, digest, detail)
