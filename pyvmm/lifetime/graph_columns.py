# SPDX-License-Identifier: MIT
"""Columns of a picture of graphs: widths of boxes and gutters, wide enough for every panel."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

from pyvmm.lifetime.graph import Graph, GraphNode
from pyvmm.lifetime.graph_routes import End, Route, Routes, Side
from pyvmm.lifetime.graph_shapes import Role, width_of

HEAD = 9.0
"""Length of an arrow's head."""
AFTER_HEAD = HEAD + 5
AFTER_BOX = 6.0
"""Room between a box and the label of an arrow that begins there."""
TRACK = 10.0
PLACE = 14.0
"""Distance of edges along a box's top."""
LANE_MARGIN = 7.0
"""Room between a label in a lane and an edge that runs up or down beside it."""
_STUB = HEAD + 7
_NOTE = 13
"""Letters in a line of a box's note."""
_BOX_PADDING = 8.0
_LEAST_BOX = 58.0


@dataclass(frozen=True, slots=True)
class Columns:
    """Places from left to right, from 0: of columns, and in each gutter where its tracks begin.

    Whole numbers, so that sums of them are what they should be.
    """

    x: tuple[float, ...]
    widths: tuple[float, ...]
    tracks: tuple[float, ...]
    width: float

    def side(self, column: int, side: Side) -> float:
        """X of a column's left or right side."""
        return self.x[column] + (self.widths[column] if side is Side.RIGHT else 0)

    def track(self, gutter: int, track: int) -> float:
        """X of a track."""
        return self.tracks[gutter] + track * TRACK

    def place(self, column: int, place: int, of: int) -> float:
        """X of one of the `of` places along the tops and bottoms of a column's boxes."""
        return self.x[column] + self.widths[column] / 2 + (place - (of - 1) / 2) * PLACE


def box_words(node: GraphNode) -> list[tuple[str, Role]]:
    """Lines in an object's box."""
    name = f"{node.mark.value} {node.shown}" if node.mark.value in "+-" else node.shown
    lines = [(name, Role.NAME)]
    if node.counted:
        lines.append((node.counted, Role.DETAIL if node.was is None else Role.CHANGED_DETAIL))
    role = Role.CHANGED_DETAIL if node.noted else Role.DETAIL
    for note in node.notes:
        lines += [(line, role) for line in textwrap.wrap(note, _NOTE)]
    return lines


def measured(panels: Sequence[tuple[Graph, Routes]]) -> Columns:
    """Compute columns in which all panels have room."""
    zones: dict[int, float] = defaultdict(lambda: AFTER_BOX)
    while True:
        columns = _columns(panels, zones)
        wider = dict(_too_narrow(panels, columns, zones))
        if not wider:
            return columns
        zones.update(wider)


def _columns(panels: Sequence[tuple[Graph, Routes]], zones: dict[int, float]) -> Columns:
    count = 1 + max((c.column for _, routes in panels for c in routes.cells.values()), default=-1)
    boxes = [_LEAST_BOX] * count
    stubs = [AFTER_BOX] * (count + 1)
    for graph, routes in panels:
        for node in graph.nodes:
            column = routes.cells[node.name].column
            lines = [width_of(words, role) for words, role in box_words(node)]
            boxes[column] = max(boxes[column], ceil(max(lines) + 2 * _BOX_PADDING))
        for (cell, _), places in routes.places.items():
            boxes[cell.column] = max(boxes[cell.column], places * PLACE + _BOX_PADDING)
        for route in routes.routes:
            for end in route.ends:
                if end.side is Side.LEFT:
                    stubs[end.gutter] = _STUB
            if route.lane < 0:
                by_head = route.end.side is Side.RIGHT and route.start.side is Side.LEFT
                label = width_of(route.edge.labelled, Role.LABEL)
                room = (AFTER_HEAD if by_head else AFTER_BOX) + label + AFTER_BOX
                gutter = route.start.gutter
                zones[gutter] = max(zones[gutter], ceil(room))
    x, tracks, at = [], [], 0.0
    for column in range(count):
        x.append(at)
        at += boxes[column]
        most = max((routes.tracks[column] for _, routes in panels), default=0)
        last = column == count - 1
        if last and not most:
            break
        tracks.append(at + zones[column] + TRACK / 2)
        at += zones[column] + most * TRACK + (0 if last else stubs[column])
    return Columns(tuple(x), tuple(boxes), tuple(tracks), at)


def _too_narrow(
    panels: Sequence[tuple[Graph, Routes]], columns: Columns, zones: dict[int, float]
) -> Iterator[tuple[int, float]]:
    """Gutters to widen, so that each label in a lane finds room: over one gutter, if need be."""
    for _, routes in panels:
        for route in routes.routes:
            if route.lane >= 0 and label_x(route, routes, columns) is None:
                gutter = max(route.start.cell.column, route.end.cell.column) - 1
                label = width_of(route.edge.labelled, Role.LABEL)
                wanted = ceil(label + 2 * LANE_MARGIN + 2)
                yield gutter, max(wanted, zones[gutter] + 1)
                return


def riser_x(end: End, of: Routes, columns: Columns) -> float:
    """X at which an edge goes up or down from one of its ends; the box's side if it does not."""
    if not end.by_side:
        return columns.place(end.cell.column, end.port, of.places[end.cell, end.side])
    if end.track >= 0:
        return columns.track(end.gutter, end.track)
    return columns.side(end.cell.column, end.side)


def label_x(route: Route, of: Routes, columns: Columns) -> float | None:
    """Find room for the label of an edge in a lane, near its holder; None where there is none."""
    start, end = (riser_x(each, of, columns) for each in route.ends)
    low, high = min(start, end), max(start, end)
    in_the_way = [
        x
        for other in of.routes
        if other.above is route.above and other.lane > route.lane
        for x in (riser_x(end_of_other, of, columns) for end_of_other in other.ends)
        if low < x < high
    ]
    corners = sorted((low, *in_the_way, high))
    wanted = width_of(route.edge.labelled, Role.LABEL) + 2 * LANE_MARGIN
    found = [(left, right) for left, right in pairwise(corners) if right - left >= wanted]
    if not found:
        return None
    if start < end:
        return found[0][0] + LANE_MARGIN
    return found[-1][1] - wanted + LANE_MARGIN
