"""Reading much of a guest's memory, and only where there may be anything but zeroes.

Looking at a page that was never touched would take memory of the host for it (a shared mapping
allocates what is read), so the file behind the mapping is asked first where it has data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyvmm.errors import PyvmmError
from pyvmm.machine.guest_memory import GuestMemory
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

    def __init__(self, attempt: str, runs: tuple[PageRun, ...]) -> None:
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
        self.runs = runs


def runs_in(memory: GuestMemory, asked: GpaRange) -> tuple[PageRun, ...]:
    """The page states of `asked`, in bytes, cut to it, as of now; ascending."""
    return tuple(
        PageRun(_cut(run.range, asked), run.state)
        for run in memory.page_states()
        if run.range.overlaps(asked)
    )


def unreadable(memory: GuestMemory, asked: GpaRange) -> tuple[PageRun, ...]:
    """The runs of `asked` that the host cannot read, as of now; ascending."""
    return tuple(run for run in runs_in(memory, asked) if run.state is not PageState.SHARED)


def _cut(range_: GpaRange, within: GpaRange) -> GpaRange:
    return GpaRange(max(range_.start, within.start), min(range_.end, within.end))


def contents(memory: GuestMemory, asked: GpaRange) -> Iterator[Content]:
    """What `asked`, in bytes, may hold beside zeroes and memory that is not there; ascending.

    The guest may run meanwhile: then the contents are of different moments. Any thread. Raises
    `NotReadableError` for a page that is not shared when it is its turn, `SystemCallError`.
    """
    attempt = f"read {asked.size} bytes of guest memory at gpa {asked.start:#x}"
    gone = unreadable(memory, asked)
    if gone:
        raise NotReadableError(attempt, gone)
    regions = memory.sides()
    convertible = any(sides.region.two_sided for sides in regions)
    most = COPIED if convertible else VIEWED
    for sides in regions:
        if not sides.region.range.overlaps(asked):
            continue
        for found in sides.data(_cut(sides.region.range, asked)):
            for part in _parts(found, most):
                if not convertible:
                    yield Content(part.start, sides.view(part))
                    continue
                data = memory.read(part.start, part.size)
                if data is None:
                    raise NotReadableError(attempt, unreadable(memory, part))
                yield Content(part.start, data)
    # What became private before its turn has no data here, which is not the same as zeroes.
    gone = unreadable(memory, asked) if convertible else ()
    if gone:
        raise NotReadableError(attempt, gone)


def _parts(found: GpaRange, most: int) -> Iterator[GpaRange]:
    """`found` in parts of at most `most` bytes."""
    start = found.start
    while start < found.end:
        stop = min(found.end, (start // most + 1) * most)
        yield GpaRange(start, stop)
        start = stop
