# SPDX-License-Identifier: MIT
"""Shapes of a picture of graphs, in pixels: boxes, arrows, and texts as rectangles.

No text is measured: a letter is `LETTER` of its size wide, and who draws sees to it in any font. So
a test can say that no text meets another one, an arrow or a box.
"""

from __future__ import annotations

import enum
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from pyvmm.lifetime.graph import Graph, GraphEdge, GraphNode

LETTER = 0.62
"""Width of a letter, as part of its size: of a monospaced font, or a little more."""
ASCENT, DESCENT = 0.95, 0.25
"""Height over and under the line that letters stand on, as parts of their size."""


class Role(enum.Enum):
    """Kinds of text, with the size of their letters in pixels."""

    TITLE = ("title", 15.0)
    ABOUT = ("about", 12.0)
    DESIGN = ("design", 12.5)
    STEP = ("step", 12.5)
    CHANGED = ("changed", 11.0)
    FINDING = ("finding", 11.0)
    NAME = ("name", 12.0)
    DETAIL = ("detail", 11.0)
    CHANGED_DETAIL = ("changed-detail", 11.0)
    LABEL = ("label", 11.0)
    KEY = ("key", 11.0)

    @property
    def size(self) -> float:
        """Height of its letters."""
        return self.value[1]


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle; y grows downwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """X of its right side."""
        return self.x + self.width

    @property
    def bottom(self) -> float:
        """Y of its lower side."""
        return self.y + self.height

    def meets(self, other: Rect) -> bool:
        """True if they have more than a border in common."""
        return (
            self.x < other.right
            and other.x < self.right
            and self.y < other.bottom
            and other.y < self.bottom
        )

    def holds(self, other: Rect) -> bool:
        """True if the other is inside."""
        return (
            self.x <= other.x
            and other.right <= self.right
            and self.y <= other.y
            and other.bottom <= self.bottom
        )


@dataclass(frozen=True, slots=True)
class Text:
    """Words that begin at `x` and stand on the line `y`."""

    words: str
    x: float
    y: float
    role: Role

    @property
    def rect(self) -> Rect:
        """The room that they take."""
        size = self.role.size
        width = width_of(self.words, self.role)
        return Rect(self.x, self.y - ASCENT * size, width, (ASCENT + DESCENT) * size)


@dataclass(frozen=True, slots=True)
class Box:
    """A drawn object."""

    node: GraphNode
    rect: Rect
    texts: tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Arrow:
    """A drawn edge: corners from the holder to the held, where its head is."""

    edge: GraphEdge
    points: tuple[tuple[float, float], ...]
    head: Rect
    label: Text

    @property
    def segments(self) -> list[Rect]:
        """Its straight parts, as rectangles without width or height."""
        return [
            Rect(min(x, to_x), min(y, to_y), abs(to_x - x), abs(to_y - y))
            for (x, y), (to_x, to_y) in pairwise(self.points)
        ]


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph in its frame."""

    design: str
    graph: Graph
    frame: Rect
    texts: tuple[Text, ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """An arrow of the key, without a label, and what such an arrow says."""

    sign: Arrow
    text: Text


@dataclass(frozen=True, slots=True)
class Placed:
    """A picture: everything in it has its place."""

    title: str
    width: float
    height: float
    texts: tuple[Text, ...]
    key: tuple[KeyEntry, ...]
    panels: tuple[Panel, ...]


def width_of(words: str, role: Role) -> float:
    """Compute the width of a text in pixels."""
    return len(words) * role.size * LETTER


def lines_of(words: str, role: Role, width: float, x: float, y: float) -> list[Text]:
    """Break a text into lines that are at most `width` wide; the first one stands on `y`."""
    letters = max(8, int(width / (role.size * LETTER)))
    height = role.size * (ASCENT + DESCENT) + 2
    broken = textwrap.wrap(words, letters, break_on_hyphens=False) or [""]
    return [Text(line, x, y + number * height, role) for number, line in enumerate(broken)]


def bottom_of(texts: Sequence[Text], otherwise: float) -> float:
    """Find the lowest point of some texts: a whole number, so that places of boxes are whole."""
    return ceil(max((text.rect.bottom for text in texts), default=otherwise))
