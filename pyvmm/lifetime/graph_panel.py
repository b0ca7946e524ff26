# SPDX-License-Identifier: MIT
"""Drawing of one graph in columns: its boxes, and its arrows by their routes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from math import ceil

from pyvmm.lifetime.graph import Graph
from pyvmm.lifetime.graph_columns import (
    AFTER_BOX,
    AFTER_HEAD,
    HEAD,
    Columns,
    box_words,
    label_x,
    riser_x,
)
from pyvmm.lifetime.graph_routes import Cell, End, Route, Routes, Side
from pyvmm.lifetime.graph_shapes import ASCENT, Arrow, Box, Rect, Role, Text

PORT = 20.0
"""Distance of ports, and of lanes: a label and its line."""
_FIRST_PORT = 17.0
_LINE = 14.0
_ROW_GAP = 14.0
_OVER_BOXES = HEAD + 5
_UNDER_BOXES = HEAD + 16
_OVER_LINE = 5.0
"""Room between a line and the label over it."""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class _Rows:
    """Places from top to bottom: of rows, and of the first lane above and below."""

    left: float
    y: dict[int, float]
    heights: dict[Cell, float]
    above: float
    below: float
    bottom: float

    def port(self, end: End) -> float:
        return self.y[end.cell.row] + _FIRST_PORT + end.port * PORT

    def lane(self, route: Route) -> float:
        by = route.lane * PORT
        return self.above - by if route.above else self.below + by


def drawing(
    graph: Graph, routes: Routes, columns: Columns, left: float, top: float
) -> tuple[list[Box], list[Arrow], float]:
    """Place a graph under `top`. The last value is where it ends."""
    if not graph.nodes:
        return [], [], top
    rows = _rows(graph, routes, left, top)
    boxes = []
    for node in graph.nodes:
        cell = routes.cells[node.name]
        x, y = left + columns.x[cell.column], rows.y[cell.row]
        texts = tuple(
            Text(words, x + 8, y + 17 + number * _LINE, role)
            for number, (words, role) in enumerate(box_words(node))
        )
        rect = Rect(x, y, columns.widths[cell.column], rows.heights[cell])
        boxes.append(Box(node, rect, texts))
    arrows = [_arrow(route, routes, columns, rows) for route in routes.routes]
    return boxes, arrows, rows.bottom


def _rows(graph: Graph, routes: Routes, left: float, top: float) -> _Rows:
    heights: dict[Cell, float] = {}
    for node in graph.nodes:
        heights[routes.cells[node.name]] = 11 + _LINE * len(box_words(node))
    for route in routes.routes:
        for end in route.ends:
            if end.by_side:
                wanted = _FIRST_PORT + end.port * PORT + 10
                heights[end.cell] = max(heights[end.cell], wanted)
    row_heights: dict[int, float] = defaultdict(float)
    for cell, height in heights.items():
        row_heights[cell.row] = max(row_heights[cell.row], height)
    at = top
    if routes.lanes_above:
        label = ceil(ASCENT * Role.LABEL.size + _OVER_LINE)
        at += label + (routes.lanes_above - 1) * PORT + _OVER_BOXES
    above = at - _OVER_BOXES
    y = {}
    for row in sorted(row_heights):
        y[row] = at
        at += row_heights[row] + _ROW_GAP
    bottom = at - _ROW_GAP
    below = bottom + _UNDER_BOXES
    if routes.lanes_below:
        bottom = below + (routes.lanes_below - 1) * PORT + 4
    return _Rows(left, y, heights, above, below, bottom)


def _arrow(route: Route, routes: Routes, columns: Columns, rows: _Rows) -> Arrow:
    points: list[Point] = []
    for end in route.ends:
        way = _to_middle(end, route, riser_x(end, routes, columns), columns, rows)
        points += way if end is route.start else way[::-1]
    points = [point for at, point in enumerate(points) if at == 0 or point != points[at - 1]]
    return Arrow(route.edge, tuple(points), _head(points), _label(route, routes, columns, rows))


def _to_middle(end: End, route: Route, riser: float, columns: Columns, rows: _Rows) -> list[Point]:
    """Corners from an end to where the edge runs in a lane, or up and down in a track."""
    if end.by_side:
        y = rows.port(end)
        way = [(rows.left + columns.side(end.cell.column, end.side), y)]
        if end.track >= 0:
            way.append((rows.left + riser, y))
    else:
        y = rows.y[end.cell.row]
        if end.side is Side.BOTTOM:
            y += rows.heights[end.cell]
        way = [(rows.left + riser, y)]
    if route.lane >= 0:
        way.append((way[-1][0], rows.lane(route)))
    return way


def _head(points: list[Point]) -> Rect:
    (from_x, from_y), (x, y) = points[-2:]
    if from_y == y:
        return Rect(x - HEAD if from_x < x else x, y - 4, HEAD, 8)
    return Rect(x - 4, y - HEAD if from_y < y else y, 8, HEAD)


def _label(route: Route, routes: Routes, columns: Columns, rows: _Rows) -> Text:
    words = route.edge.labelled
    if route.lane >= 0:
        x = label_x(route, routes, columns)
        assert x is not None, "columns are measured so that there is room"
        return Text(words, rows.left + x, rows.lane(route) - _OVER_LINE, Role.LABEL)
    begins = route.start.side is Side.RIGHT
    end = route.start if begins else route.end
    x = columns.side(end.cell.column, Side.RIGHT) + (AFTER_BOX if begins else AFTER_HEAD)
    return Text(words, rows.left + x, rows.port(end) - _OVER_LINE, Role.LABEL)
