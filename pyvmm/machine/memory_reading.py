# SPDX-License-Identifier: MIT
"""Reading much of a guest's memory, and only where there may be anything but zeroes.

Looking at a page that was never touched would take memory of the host for it (a shared mapping
allocates what is read), so the file behind the mapping is asked first where it has data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pyvmm.errors import PyvmmError
from pyvmm.machine.guest_memory import GuestMemory
from pyvmm.machine.memory_sides import MemorySides
from pyvmm.memory.layout import MIB, GpaRange
from pyvmm.memory.page_states import PageRun, PageState

VIEWED = 8 * MIB
"""The most bytes in one `Content` that is a view of the mapping itself."""
COPIED = MIB
"""The most bytes in one of a machine whose pages can become private: these are copied."""
_TOLD_RUNS = 4


@dataclass(frozen=True, slots=True)
class Content:
    """`data` is what is at `gpa` and on, in bytes; a view is the guest's own, which may write."""

    gpa: int
    data: memoryview | bytes


class NotReadableError(PyvmmError):
    """Some of the pages asked for are private or withheld: the host has no view of them."""

    def __init__(self, attempt: str, runs: Sequence[PageRun]) -> None:
        told = ", ".join(
            f"{run.range.start:#x}-{run.range.end - 1:#x} {run.state.value}"
            for run in runs[:_TOLD_RUNS]
        )
        more = f" and {len(runs) - _TOLD_RUNS} more runs" if len(runs) > _TOLD_RUNS else ""
        super().__init__(
            attempt,
            f"the host cannot see all of it: {told}{more}",
            "x-pyvmm-pmemsave can leave such pages out",
        )
        self.runs = tuple(runs)


def unreadable(memory: GuestMemory, asked: GpaRange) -> tuple[PageRun, ...]:
    """The runs of `asked`, in bytes, that the host cannot read, as of now; ascending."""
    return tuple(run for run in memory.states.runs(asked) if run.state is not PageState.SHARED)


def contents(
    memory: GuestMemory, asked: GpaRange, left_out: list[PageRun] | None = None
) -> Iterator[Content]:
    """Yield what `asked`, in bytes, may hold beside zeroes and memory that is not there; ascending.

    The guest may run meanwhile: then the contents are of different moments. Pages that the host
    cannot read when it is their turn go into `left_out`; without it they raise `NotReadableError`,
    before the first content if they are known by then. Any thread. Raises `SystemCallError`.
    """
    regions = memory.regions.sides()
    gone = list(unreadable(memory, asked))
    if left_out is None:
        _refuse(asked, gone)
    if not gone and not any(sides.region.can_be_private for sides in regions):
        for sides, part in _overlapping(regions, asked):
            for found in sides.data(part):
                for piece in _cut(found, VIEWED):
                    yield Content(piece.start, sides.view(piece))
        return
    for sides, part in _overlapping(regions, asked):
        for block in _cut(part, COPIED):
            yield from _copies(memory, sides, block, gone)
            if left_out is None:
                _refuse(asked, gone)
    # What became private since its turn may have had no data then, which is not the same as zeroes.
    gone.extend(unreadable(memory, asked))
    if left_out is None:
        _refuse(asked, gone)
    else:
        left_out.extend(gone)


def _copies(
    memory: GuestMemory, sides: MemorySides, block: GpaRange, gone: list[PageRun]
) -> Iterator[Content]:
    position = block.start
    while position < block.end:
        run = next(iter(memory.states.runs(GpaRange(position, block.end))), None)
        if run is None:
            return  # The region went away meanwhile.
        position = run.range.end
        if run.state is not PageState.SHARED:
            gone.append(run)
            continue
        for found in sides.data(run.range):
            data = memory.read(found.start, found.size)
            if data is None:
                position = found.start  # Converted meanwhile: look again.
                break
            yield Content(found.start, data)


def _overlapping(
    regions: Iterable[MemorySides], asked: GpaRange
) -> Iterator[tuple[MemorySides, GpaRange]]:
    for sides in regions:
        region = sides.region.range
        if region.overlaps(asked):
            yield sides, GpaRange(max(region.start, asked.start), min(region.end, asked.end))


def _cut(range_: GpaRange, most: int) -> Iterator[GpaRange]:
    """`range_` in parts of at most `most` bytes, cut at multiples of that."""
    start = range_.start
    while start < range_.end:
        stop = min(range_.end, (start // most + 1) * most)
        yield GpaRange(start, stop)
        start = stop


def _refuse(asked: GpaRange, gone: Sequence[PageRun]) -> None:
    if gone:
        attempt = f"read {asked.size} bytes of guest memory at gpa {asked.start:#x}"
        raise NotReadableError(attempt, gone)
