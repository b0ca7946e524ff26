# SPDX-License-Identifier: MIT
"""Ways of edges between boxes in columns and rows, in whole numbers: no pixel is known here.

Between two columns lies a gutter. It has, from the left, a zone for labels, tracks (where edges run
up or down) and a zone for arrow heads. An edge to the next column leaves by a port at a box's side;
one that goes further runs in a lane: above all rows where it points to the right, below them where
it points back. A lane is reached from a box's top (or bottom) if no other box is in between, else
by a port and a track. Ports that face one gutter have heights of their own, so that only what
belongs together is in one line, and nothing but runs from the left column's ports is among labels.
"""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pyvmm.lifetime.graph import COLUMNS, Graph, GraphEdge, NodeKind


class Side(enum.Enum):
    """A side of a box."""

    LEFT = "left"
    RIGHT = "right"
    TOP = "top"
    BOTTOM = "bottom"


@dataclass(frozen=True, slots=True)
class Cell:
    """Column and row of a box, from 0."""

    column: int
    row: int


@dataclass(slots=True)
class End:
    """One end of an edge: where it touches its box.

    `port` counts the heights of its row in the gutter that it faces, or the places along the top or
    bottom of its box. `track` is that of the gutter, -1 for none.
    """

    cell: Cell
    side: Side
    port: int = 0
    track: int = -1

    @property
    def gutter(self) -> int:
        """The gutter that it faces: 0 is to the right of the first column."""
        return self.cell.column - (self.side is Side.LEFT)

    @property
    def by_side(self) -> bool:
        """True for an end that faces a gutter."""
        return self.side in (Side.LEFT, Side.RIGHT)


@dataclass(slots=True)
class Route:
    """An edge's way. `lane` counts from the boxes outwards, -1 for an edge without one."""

    edge: GraphEdge
    start: End
    end: End
    lane: int = -1
    above: bool = False

    @property
    def ends(self) -> tuple[End, End]:
        """Both."""
        return self.start, self.end

    @property
    def long(self) -> bool:
        """True for an edge that runs in a lane."""
        return abs(self.start.cell.column - self.end.cell.column) > 1

    @property
    def straight(self) -> bool:
        """True for an edge that is one horizontal line."""
        columns = abs(self.start.cell.column - self.end.cell.column)
        return columns == 1 and self.start.cell.row == self.end.cell.row


@dataclass(slots=True)
class Routes:
    """Ways of all edges of a graph, and how much room they take.

    `ports` by (gutter, row), `tracks` by gutter, `places` by cell and side.
    """

    cells: dict[str, Cell]
    routes: list[Route]
    ports: Counter[tuple[int, int]] = field(default_factory=Counter)
    tracks: Counter[int] = field(default_factory=Counter)
    places: Counter[tuple[Cell, Side]] = field(default_factory=Counter)
    lanes_above: int = 0
    lanes_below: int = 0


def grid(graphs: Iterable[Graph]) -> dict[str, Cell]:
    """Give each object one cell in all graphs of a picture, so that nothing moves between steps."""
    names: dict[NodeKind, set[str]] = defaultdict(set)
    for graph in graphs:
        for node in graph.nodes:
            names[node.kind].add(node.name)
    columns = [[name for kind in column for name in sorted(names[kind])] for column in COLUMNS]
    return {
        name: Cell(column, row)
        for column, rows in enumerate(filter(None, columns))
        for row, name in enumerate(rows)
    }


def routed(graph: Graph, cells: dict[str, Cell]) -> Routes:
    """Find a way for every edge. `cells` has all nodes of the graph."""
    here = {node.name: cells[node.name] for node in graph.nodes}
    found = Routes(here, [_route(edge, here) for edge in graph.edges])
    _give_lanes(found)
    _give_places(found)
    _give_ports(found)
    _give_tracks(found)
    return found


def _route(edge: GraphEdge, cells: dict[str, Cell]) -> Route:
    start, end = cells[edge.holder], cells[edge.held]
    by = end.column - start.column
    if abs(by) > 1:
        outer = Side.TOP if by > 0 else Side.BOTTOM
        near, far = (Side.RIGHT, Side.LEFT) if by > 0 else (Side.LEFT, Side.RIGHT)
        first = outer if _is_outermost(start, outer, cells.values()) else near
        last = outer if _is_outermost(end, outer, cells.values()) else far
        return Route(edge, End(start, first), End(end, last), above=by > 0)
    if by < 0:
        return Route(edge, End(start, Side.LEFT), End(end, Side.RIGHT))
    return Route(edge, End(start, Side.RIGHT), End(end, Side.LEFT if by else Side.RIGHT))


def _is_outermost(cell: Cell, side: Side, others: Iterable[Cell]) -> bool:
    rows = [other.row for other in others if other.column == cell.column]
    return cell.row == (min(rows) if side is Side.TOP else max(rows))


def _along(end: End) -> int:
    """A place from left to right, in columns and gutters."""
    return 2 * end.cell.column + {Side.LEFT: -1, Side.RIGHT: 1}.get(end.side, 0)


def _give_lanes(found: Routes) -> None:
    """Short edges run next to the boxes; edges that do not meet may have the same lane."""
    for above in (True, False):
        lanes: list[list[tuple[int, int]]] = []
        routes = [route for route in found.routes if route.long and route.above is above]
        spans = [sorted(map(_along, route.ends)) for route in routes]
        for at in sorted(range(len(routes)), key=lambda at: (spans[at][1] - spans[at][0], at)):
            low, high = spans[at]
            lane = next(
                (
                    number
                    for number, taken in enumerate(lanes)
                    if all(high < other_low or other_high < low for other_low, other_high in taken)
                ),
                len(lanes),
            )
            if lane == len(lanes):
                lanes.append([])
            lanes[lane].append((low, high))
            routes[at].lane = lane
        if above:
            found.lanes_above = len(lanes)
        else:
            found.lanes_below = len(lanes)


def _give_places(found: Routes) -> None:
    """Order ends along tops and bottoms so that edges nest: from the left first, outer ones out."""
    groups: dict[tuple[Cell, Side], list[tuple[tuple[int, int], End]]] = defaultdict(list)
    for route in found.routes:
        for end, other in (route.ends, route.ends[::-1]):
            if not end.by_side:
                from_left = other.cell.column < end.cell.column
                key = (0, route.lane) if from_left else (1, -route.lane)
                groups[end.cell, end.side].append((key, end))
    for place, ends in groups.items():
        found.places[place] = len(ends)
        for number, (_, end) in enumerate(sorted(ends, key=lambda each: each[0])):
            end.port = number


def _give_ports(found: Routes) -> None:
    """Heights in each row of each gutter: what goes up, what goes straight, what goes down."""
    groups: dict[tuple[int, int], list[tuple[tuple[int, int], list[End]]]] = defaultdict(list)
    for number, route in enumerate(found.routes):
        if route.straight:
            groups[route.start.gutter, route.start.cell.row].append(((0, number), [*route.ends]))
            continue
        for end, other in (route.ends, route.ends[::-1]):
            if end.by_side:
                rows = other.cell.row - end.cell.row
                if route.long:
                    rows = -100 if route.above else 100
                groups[end.gutter, end.cell.row].append(((rows or 1, number), [end]))
    for place, together in groups.items():
        found.ports[place] = len(together)
        for number, (_, ends) in enumerate(sorted(together, key=lambda each: each[0])):
            for end in ends:
                end.port = number


@dataclass(frozen=True, slots=True)
class _Riser:
    """An edge in a gutter: the heights at which it goes off to the left (True) or to the right."""

    ends: tuple[End, ...]
    runs: tuple[tuple[tuple[int, int], bool], ...]

    def crosses(self, other: _Riser) -> int:
        """Count crossings if `self` is to the left of `other`."""
        return sum(
            riser.runs[0][0] < height < riser.runs[-1][0]
            for riser, runs, to_left in ((self, other.runs, True), (other, self.runs, False))
            for height, left in runs
            if left is to_left
        )


def _give_tracks(found: Routes) -> None:
    """Order the tracks of each gutter so that few edges cross."""
    gutters: dict[int, list[_Riser]] = defaultdict(list)
    for route in found.routes:
        if route.straight:
            continue
        if route.long:
            lane = (-1 - route.lane, 0) if route.above else (1000 + route.lane, 0)
            for end, other in (route.ends, route.ends[::-1]):
                if end.by_side:
                    to_left = other.cell.column < end.cell.column
                    runs = [(_height(end), end.side is Side.RIGHT), (lane, to_left)]
                    gutters[end.gutter].append(_Riser((end,), tuple(sorted(runs))))
        else:
            runs = [(_height(end), end.side is Side.RIGHT) for end in route.ends]
            gutters[route.start.gutter].append(_Riser(route.ends, tuple(sorted(runs))))
    for gutter, risers in gutters.items():
        found.tracks[gutter] = len(risers)
        for track, riser in enumerate(_ordered(risers)):
            for end in riser.ends:
                end.track = track


def _height(end: End) -> tuple[int, int]:
    return end.cell.row, end.port


def _ordered(risers: Sequence[_Riser]) -> list[_Riser]:
    """Neighbours change places as long as that takes away crossings."""
    order = list(risers)
    for _ in order:
        for at in range(len(order) - 1):
            left, right = order[at], order[at + 1]
            if right.crosses(left) < left.crosses(right):
                order[at : at + 2] = right, left
    return order
