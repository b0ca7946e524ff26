# SPDX-License-Identifier: MIT
"""Search for anything in a placed picture of graphs that lies on something else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from pyvmm.lifetime.graph_shapes import Arrow, Box, KeyEntry, Panel, Placed, Rect, Text


def overlaps(placed: Placed) -> tuple[str, ...]:
    """Say what meets what: text and text, arrow, head, box or border; lines and boxes; lines.

    Lines may cross, but not run in each other. Empty for a picture that can be read.
    """
    whole = Rect(0, 0, placed.width, placed.height)
    frames = [panel.frame for panel in placed.panels]
    found = [f"{frame} sticks out" for frame in frames if not whole.holds(frame)]
    found += [f"{a} on {b}" for a, b in combinations(frames, 2) if a.meets(b)]
    found += _around(placed, whole)
    for panel in placed.panels:
        found += [f"{panel.graph.title!r}: {words}" for words in _in_panel(panel)]
    return tuple(found)


def _around(placed: Placed, whole: Rect) -> Iterator[str]:
    """Texts over the panels, and the key."""
    texts = [*placed.texts, *(entry.text for entry in placed.key)]
    yield from _texts(texts, whole)
    frames = [panel.frame for panel in placed.panels]
    for text in texts:
        if any(text.rect.meets(frame) for frame in frames):
            yield f"{text.words!r} on a panel"
        if any(_meets_arrow(text.rect, entry.sign) for entry in placed.key):
            yield f"{text.words!r} on a sign of the key"
    for one, other in combinations(placed.key, 2):
        if _sign(one).meets(_sign(other)):
            yield f"{one.text.words!r}: its sign on another"


def _sign(entry: KeyEntry) -> Rect:
    head = entry.sign.head
    x = entry.sign.points[0][0]
    return Rect(x, head.y, head.right - x, head.height)


def _in_panel(panel: Panel) -> Iterator[str]:
    labels = [arrow.label for arrow in panel.arrows]
    inside = [text for box in panel.boxes for text in box.texts]
    yield from _texts([*panel.texts, *labels, *inside], panel.frame)
    yield from _boxes(panel)
    for text in (*panel.texts, *labels, *inside):
        for arrow in panel.arrows:
            if _meets_arrow(text.rect, arrow):
                yield f"{text.words!r} on the arrow {arrow.label.words!r}"
    for one, other in combinations(panel.arrows, 2):
        if one.head.meets(other.head):
            yield f"the heads of {one.label.words!r} and {other.label.words!r}"
        for mine in one.segments:
            if _touches(mine, other.head):
                yield f"{one.label.words!r} on the head of {other.label.words!r}"
            yield from (
                f"{one.label.words!r} runs in {other.label.words!r}"
                for theirs in other.segments
                if _run_together(mine, theirs)
            )
        if any(_touches(theirs, one.head) for theirs in other.segments):
            yield f"{other.label.words!r} on the head of {one.label.words!r}"


def _texts(texts: Sequence[Text], frame: Rect) -> Iterator[str]:
    for text in texts:
        if not frame.holds(text.rect):
            yield f"{text.words!r} sticks out"
    for one, other in combinations(texts, 2):
        if one.rect.meets(other.rect):
            yield f"{one.words!r} on {other.words!r}"


def _boxes(panel: Panel) -> Iterator[str]:
    for box in panel.boxes:
        name = box.node.shown
        if not panel.frame.holds(box.rect):
            yield f"{name} sticks out"
        yield from (
            f"{text.words!r} leaves {name}" for text in box.texts if not box.rect.holds(text.rect)
        )
        for text in (*panel.texts, *(arrow.label for arrow in panel.arrows)):
            if box.rect.meets(text.rect):
                yield f"{text.words!r} on {name}"
        for arrow in panel.arrows:
            yield from _arrow_and_box(arrow, box)
    for one, other in combinations(panel.boxes, 2):
        if one.rect.meets(other.rect):
            yield f"{one.node.shown} on {other.node.shown}"


def _arrow_and_box(arrow: Arrow, box: Box) -> Iterator[str]:
    name = box.node.shown
    if box.rect.meets(arrow.head):
        yield f"the head of {arrow.label.words!r} on {name}"
    if any(_touches(segment, box.rect) for segment in arrow.segments):
        yield f"{arrow.label.words!r} runs through {name}"
    for (x, y), owner in (
        (arrow.points[0], arrow.edge.holder),
        (arrow.points[-1], arrow.edge.held),
    ):
        rect = box.rect
        on_it = rect.x <= x <= rect.right and rect.y <= y <= rect.bottom
        if on_it is not (owner == box.node.name):
            yield f"{arrow.label.words!r} begins or ends at the wrong place of {name}"


def _meets_arrow(rect: Rect, arrow: Arrow) -> bool:
    return rect.meets(arrow.head) or any(_touches(segment, rect) for segment in arrow.segments)


def _touches(segment: Rect, rect: Rect) -> bool:
    """True if a line goes through the inside of a rectangle; along its border is outside."""
    return (
        segment.x < rect.right and rect.x < segment.right and rect.y < segment.y < rect.bottom
        if not segment.height
        else segment.y < rect.bottom and rect.y < segment.bottom and rect.x < segment.x < rect.right
    )


def _run_together(one: Rect, other: Rect) -> bool:
    """True if two lines have more than a point in common."""
    if not one.height and not other.height:
        return one.y == other.y and one.x < other.right and other.x < one.right
    if one.height and other.height:
        return one.x == other.x and one.y < other.bottom and other.y < one.bottom
    return False
