# SPDX-License-Identifier: MIT
"""A map of a guest's pages as a value: pieces that are alike, and what a step changed in them.

Nothing is to scale and nothing is rounded: each piece is as many pages as it has. Writers draw it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic, TypeVar

from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageRun, PageState
from pyvmm.rules.abi import PAGE_SIZE

T = TypeVar("T")

Held = tuple[Side, GpaRange]
"""Pages, in bytes of GPA, that the kernel holds for one side."""
MOST_PIECES = 512
"""The most pieces of a picture."""

_HOLDERS = {Side.PRIVATE: "a page of the guest_memfd", Side.SHARED: "a page of the host's memory"}


@dataclass(frozen=True, slots=True)
class PagePiece:
    """Adjacent pages, in bytes of GPA, that are alike in state and residency, now and before.

    `state` None is no memory, which is told only where there was some. `held` are the sides that
    the kernel holds pages for.
    """

    range: GpaRange
    state: PageState | None
    was: PageState | None
    held: frozenset[Side] = frozenset()
    was_held: frozenset[Side] = frozenset()

    @property
    def pages(self) -> int:
        """Number of pages, the last one perhaps in part."""
        return -(-self.range.size // PAGE_SIZE)

    @property
    def is_changed(self) -> bool:
        """True if a page here is not as it was."""
        return self.state is not self.was or self.held != self.was_held

    @property
    def change(self) -> str:
        """Difference to before in a few words; "" for none."""
        said = []
        if self.state is not self.was:
            if self.was is None:
                said.append("new memory")
            else:
                said.append(f"was {self.was.value}")
        for side in Side:
            if (side in self.held) is not (side in self.was_held):
                verb = "now" if side in self.held else "no longer"
                said.append(f"{_HOLDERS[side]} is {verb} held")
        return ", ".join(said)

    @property
    def residency(self) -> str:
        """Pages that the kernel holds for each page here, in words."""
        return " and ".join(_HOLDERS[side] for side in Side if side in self.held) or "nothing"


@dataclass(frozen=True, slots=True)
class PagePicture:
    """Pieces in the order of addresses; `left_out` more are not shown.

    `knows_residency` is False where nobody has asked the kernel what it holds.
    """

    pieces: tuple[PagePiece, ...]
    knows_residency: bool = False
    left_out: int = 0

    def about(self, piece: PagePiece, range_: GpaRange) -> str:
        """Some pages of a piece in a sentence, for who points at them."""
        here = f"{range_.start:#x}"
        if range_.size > PAGE_SIZE:
            here = f"{range_.start:#x} to {range_.end - 1:#x}, {counted(range_)}"
        words = [f"{here}: {'no memory' if piece.state is None else piece.state.value}"]
        if self.knows_residency and piece.state is not None:
            words.append(f"the kernel holds {piece.residency}")
        if piece.is_changed:
            words.append(f"changed in this step: {piece.change}")
        return "; ".join(words)

    @property
    def summary(self) -> str:
        """The whole picture in a sentence."""
        if not any(piece.state for piece in self.pieces):
            return "there is no memory"
        said = []
        for state in PageState:
            pages = sum(piece.pages for piece in self.pieces if piece.state is state)
            if pages:
                said.append(f"{_pages(pages)} {state.value}")
        changed = sum(piece.pages for piece in self.pieces if piece.is_changed)
        if changed:
            said.append(f"{_pages(changed)} changed in this step")
        return ", ".join(said)


def counted(range_: GpaRange) -> str:
    """The size of a range in pages, or in bytes where it is less than one."""
    if range_.size < PAGE_SIZE:
        return f"{range_.size} bytes"
    whole = _pages(range_.size // PAGE_SIZE)
    rest = range_.size % PAGE_SIZE
    return f"{whole} and {rest} bytes" if rest else whole


def _pages(count: int) -> str:
    return f"{count} page{'s' * (count != 1)}"


def picture_of(
    runs: Iterable[PageRun],
    before: Iterable[PageRun] | None = None,
    held: Iterable[Held] = (),
    held_before: Iterable[Held] | None = None,
) -> PagePicture:
    """The picture of memory that is in `runs`, with marks on what is another than `before`.

    All are ascending, `held` for each side, and do not overlap. None is the same as now. Of more
    pieces than `MOST_PIECES` those around the first change are kept.
    """
    now = _Moment(tuple(runs), tuple(held))
    was = _Moment(
        now.runs if before is None else tuple(before),
        now.held if held_before is None else tuple(held_before),
    )
    pieces: list[PagePiece] = []
    for start, end in pairwise(sorted(now.bounds | was.bounds)):
        piece = PagePiece(
            GpaRange(start, end),
            now.state_at(start),
            was.state_at(start),
            now.held_at(start),
            was.held_at(start),
        )
        if piece.state is None and piece.was is None:
            continue
        if pieces and _alike(pieces[-1], piece):
            piece = replace(piece, range=GpaRange(pieces.pop().range.start, end))
        pieces.append(piece)
    first = next((at for at, piece in enumerate(pieces) if piece.is_changed), 0)
    low = max(0, min(first - MOST_PIECES // 2, len(pieces) - MOST_PIECES))
    kept = tuple(pieces[low : low + MOST_PIECES])
    return PagePicture(kept, bool(now.held or was.held), len(pieces) - len(kept))


class _Moment:
    """States and residency at one time, to be looked up by address."""

    def __init__(self, runs: tuple[PageRun, ...], held: tuple[Held, ...]) -> None:
        self.runs, self.held = runs, held
        ranges = [*(run.range for run in runs), *(range_ for _, range_ in held)]
        self.bounds = {address for range_ in ranges for address in range_}
        self._states = _Looked([(run.range, run.state) for run in runs])
        self._sides = {
            side: _Looked([(range_, True) for of, range_ in held if of is side]) for side in Side
        }

    def state_at(self, address: int) -> PageState | None:
        return self._states.at(address)

    def held_at(self, address: int) -> frozenset[Side]:
        return frozenset(side for side, found in self._sides.items() if found.at(address))


def _alike(one: PagePiece, other: PagePiece) -> bool:
    return one.range.end == other.range.start and (
        (one.state, one.was, one.held, one.was_held)
        == (other.state, other.was, other.held, other.was_held)
    )


class _Looked(Generic[T]):
    """Values of ranges, ascending, to be looked up by address."""

    def __init__(self, found: Sequence[tuple[GpaRange, T]]) -> None:
        self._starts = [range_.start for range_, _ in found]
        self._found = found

    def at(self, address: int) -> T | None:
        """The value of the range that has an address; None if there is none."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        range_, value = self._found[index]
        return value if address < range_.end else None
