# SPDX-License-Identifier: MIT
"""Places of a page map's cells and texts, in pixels: a cell for each page, or for a run of many.

Nothing is measured: letters are as wide as `lifetime.graph_shapes` says, and who draws sees to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from pyvmm.lifetime.graph_shapes import Rect, Role, Text, bottom_of, width_of
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_picture import PagePicture, PagePiece, counted
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE

MOST_CELLS = 512
ACROSS = 16
"""Cells in a row."""
FEW = 4
"""A piece of so many pages has a cell for each of them; a larger one is a single wide cell."""
MARGIN = 4.0
_WIDTH, _HEIGHT = 21.0, 28.0
_WIDE = 5
"""Cells that a wide one takes the room of."""
_LETTERS = {
    PageState.PRIVATE: "P",
    PageState.SHARED: "s",
    PageState.WITHHELD: "w",
    None: ".",
}
_CHANGED = "*"


@dataclass(frozen=True, slots=True)
class Cell:
    """Pages of one piece. `squares` are the sides' signs: filled where the kernel holds pages."""

    piece: PagePiece
    range: GpaRange
    about: str
    rect: Rect
    texts: tuple[Text, ...]
    squares: tuple[tuple[Side, Rect, bool], ...]


@dataclass(frozen=True, slots=True)
class PlacedMap:
    """A page map whose parts have their places."""

    width: float
    height: float
    headings: tuple[Text, ...]
    rows: tuple[tuple[Cell, ...], ...]
    left_out: int
    """Pieces that there was no room for."""


def placed_map(picture: PagePicture) -> PlacedMap:
    """Place a picture: stretches of memory under each other, each with its addresses over it."""
    headings: list[Text] = []
    rows: list[tuple[Cell, ...]] = []
    top, cells, left_out, end = MARGIN, 0, picture.left_out, 0
    for stretch in _stretches(picture.pieces):
        first = stretch[0].range.start
        if first > end:
            headings.append(_heading(f"no memory: {end:#x}-{first - 1:#x}", top))
            top = bottom_of(headings[-1:], top) + 2
        end = stretch[-1].range.end
        whole = GpaRange(first, end)
        headings.append(_heading(f"{first:#x}-{end - 1:#x}", top, f", {counted(whole)}"))
        top = bottom_of(headings[-1:], top) + 2
        row: list[Cell] = []
        column = 0
        for piece in stretch:
            ranges = _ranges(piece, MOST_CELLS - cells)
            left_out += not ranges
            cells += len(ranges)
            for range_ in ranges:
                wide = _WIDE if range_.size > PAGE_SIZE else 1
                if column + wide > ACROSS:
                    rows.append(tuple(row))
                    row, column, top = [], 0, top + _HEIGHT
                rect = Rect(MARGIN + column * _WIDTH, top, wide * _WIDTH, _HEIGHT)
                row.append(_cell(picture, piece, range_, rect))
                column += wide
        if row:
            rows.append(tuple(row))
            top += _HEIGHT
        top += 6
    return PlacedMap(
        2 * MARGIN + ACROSS * _WIDTH, top + MARGIN, tuple(headings), tuple(rows), left_out
    )


def _heading(words: str, top: float, more: str = "") -> Text:
    """A line over memory, with `more` behind it where there is room."""
    has_room = width_of(words + more, Role.LABEL) <= ACROSS * _WIDTH
    return Text(words + more if has_room else words, MARGIN, top + 13, Role.LABEL)


def _stretches(pieces: Sequence[PagePiece]) -> Iterator[list[PagePiece]]:
    """Pieces that follow each other without a gap."""
    found: list[PagePiece] = []
    for piece in pieces:
        if found and found[-1].range.end != piece.range.start:
            yield found
            found = []
        found.append(piece)
    if found:
        yield found


def _ranges(piece: PagePiece, room: int) -> list[GpaRange]:
    """The pages of each cell of a piece; none where there is no room for a single one."""
    start, end = piece.range
    if not room:
        return []
    if piece.pages > min(FEW, room):
        return [piece.range]
    return [GpaRange(at, min(at + PAGE_SIZE, end)) for at in range(start, end, PAGE_SIZE)]


def _cell(picture: PagePicture, piece: PagePiece, range_: GpaRange, rect: Rect) -> Cell:
    words = _LETTERS[piece.state]
    if range_.size > PAGE_SIZE:
        words = f"{words} {short_count(piece.pages)}"
    texts = [Text(words, rect.x + 3, rect.y + 14, Role.LABEL)]
    if piece.is_changed:
        star = width_of(_CHANGED, Role.LABEL)
        texts.append(Text(_CHANGED, rect.right - star - 2, rect.y + 14, Role.LABEL))
    squares = []
    if piece.state is not None and piece.held:
        for number, side in enumerate((Side.PRIVATE, Side.SHARED)):
            square = Rect(rect.x + 3.5 + 8 * number, rect.y + 19.5, 5, 5)
            squares.append((side, square, side in piece.held))
    return Cell(piece, range_, picture.about(piece, range_), rect, tuple(texts), tuple(squares))


def short_count(pages: int) -> str:
    """``x3840``: a number of pages in at most nine letters."""
    if pages < 100_000_000:
        return f"x{pages}"
    return f"x{pages:.2g}".replace("+", "")


def overlaps(placed: PlacedMap) -> tuple[str, ...]:
    """Say what lies on what: texts, squares, borders of cells. Empty for a map to be read."""
    cells = [cell for row in placed.rows for cell in row]
    whole = Rect(0, 0, placed.width, placed.height)
    found = []
    for heading in placed.headings:
        if not whole.holds(heading.rect):
            found.append(f"{heading.words!r} sticks out")
        found += [f"{heading.words!r} on a cell" for c in cells if c.rect.meets(heading.rect)]
    found += [f"{a.words!r} on {b.words!r}" for a, b in _meeting(placed.headings)]
    for one, other in combinations(cells, 2):
        if one.rect.meets(other.rect):
            found.append(f"{one.about!r} on {other.about!r}")
    for cell in cells:
        if not whole.holds(cell.rect):
            found.append(f"{cell.about!r} sticks out")
        inside = [*(text.rect for text in cell.texts), *(square for _, square, _ in cell.squares)]
        found += [f"{cell.about!r}: something leaves it" for r in inside if not cell.rect.holds(r)]
        found += [f"{cell.about!r}: its signs" for a, b in combinations(inside, 2) if a.meets(b)]
    return tuple(found)


def _meeting(texts: Sequence[Text]) -> Iterator[tuple[Text, Text]]:
    return ((a, b) for a, b in combinations(texts, 2) if a.rect.meets(b.rect))
