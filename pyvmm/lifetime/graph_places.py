# SPDX-License-Identifier: MIT
"""Places of everything in a picture of graphs: panels under or beside each other, with a key.

Columns are at the same places in every panel, so that an object stays where it is from step to
step; a panel is as high as what is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

from pyvmm.lifetime.graph import Drawn, Evidence, Graph, GraphEdge, Mark, printable
from pyvmm.lifetime.graph_columns import Columns, measured
from pyvmm.lifetime.graph_panel import drawing
from pyvmm.lifetime.graph_routes import Routes, grid, routed
from pyvmm.lifetime.graph_shapes import (
    Arrow,
    KeyEntry,
    Panel,
    Placed,
    Rect,
    Role,
    Text,
    bottom_of,
    lines_of,
    width_of,
)
from pyvmm.visible import visible

MARGIN = 12.0
_PADDING = 12.0
_GAP = 10.0
_LEAST_WIDTH = 560.0
_SIGN = 34.0
"""Length of an arrow in the key."""

_ENDED = Graph("cannot be done in this design", (), ())


def place(
    drawn: Sequence[Drawn],
    title: str,
    about: str = "",
    *,
    beside: bool = False,
    bare: bool = False,
    among: Sequence[Graph] = (),
) -> Placed:
    """Place stories, each of one design: step by step, one design under the other, or `beside`.

    `title` and `about` stand over the picture, and a key; a `bare` one has none of these, and the
    title as its name only. Objects are where they are in a picture with the graphs of `among`, too:
    those before, for one that is drawn moment by moment.
    """
    drawn, title, about = printable(drawn), visible(title), visible(about)
    graphs = [graph for each in drawn for graph in each.graphs]
    others = [*graphs, *printable([Drawn("", tuple(among))])[0].graphs]
    cells = grid(others)
    ways = {id(graph): routed(graph, cells) for graph in others}
    columns = measured([(graph, ways[id(graph)]) for graph in others])
    inner = max(columns.width + 2 * _PADDING, _LEAST_WIDTH)
    across = len(drawn) if beside else 1
    width = 2 * MARGIN + across * inner + (across - 1) * _GAP
    texts: list[Text] = []
    key: list[KeyEntry] = []
    top = MARGIN
    if not bare:
        texts += _headings(title, about, width - 2 * MARGIN)
        key += _key(graphs, width, bottom_of(texts, MARGIN) + 8)
        top = bottom_of([*texts, *(entry.text for entry in key)], MARGIN) + 10
    panels: list[Panel] = []
    for row in _rows(drawn, beside):
        placed = []
        for number, (design, graph) in enumerate(row):
            routes = ways.get(id(graph)) or Routes({}, [])
            shown = design if len(drawn) > 1 else ""
            place_of_it = Rect(MARGIN + beside * number * (inner + _GAP), top, inner, 0)
            placed.append(_panel(shown, graph, routes, columns, place_of_it))
            if not beside:
                top = placed[-1].frame.bottom + _GAP
        lowest = max(panel.frame.bottom for panel in placed)
        if beside:
            placed = [_to(panel, lowest) for panel in placed]
            top = lowest + _GAP
        elif len(placed) > 1:
            top += _GAP
        panels += placed
    height = max((panel.frame.bottom for panel in panels), default=top) + MARGIN
    return Placed(title, width, height, tuple(texts), tuple(key), tuple(panels))


def _headings(title: str, about: str, room: float) -> list[Text]:
    texts = lines_of(title, Role.TITLE, room, MARGIN, MARGIN + 14)
    if about:
        texts += lines_of(about, Role.ABOUT, room, MARGIN, bottom_of(texts, MARGIN) + 14)
    return texts


def _rows(drawn: Sequence[Drawn], beside: bool) -> list[list[tuple[str, Graph]]]:
    """The panels of each step; a design whose story is shorter says so, once where they stack."""
    rows = []
    ended: set[str] = set()
    for graphs in zip_longest(*(each.graphs for each in drawn)):
        row = []
        for each, graph in zip(drawn, graphs, strict=True):
            if graph is not None or beside or each.design not in ended:
                row.append((each.design, graph or _ENDED))
            if graph is None:
                ended.add(each.design)
        rows.append(row)
    return rows


def _to(panel: Panel, bottom: float) -> Panel:
    return replace(panel, frame=replace(panel.frame, height=bottom - panel.frame.y))


def _panel(design: str, graph: Graph, routes: Routes, columns: Columns, at: Rect) -> Panel:
    left, room = at.x + _PADDING, at.width - 2 * _PADDING
    texts: list[Text] = []
    top = at.y + 19
    tagged = width_of(design, Role.DESIGN)
    if design and tagged + 20 + width_of(graph.title, Role.STEP) <= room:
        texts.append(Text(design, left + room - tagged, top, Role.DESIGN))
    elif design:
        texts += lines_of(design, Role.DESIGN, room, left, top)
        top = bottom_of(texts, top) + 14
    texts += lines_of(graph.title, Role.STEP, room, left, top)
    for words, role in (
        (f"changed: {graph.changed}" if graph.changed else "", Role.CHANGED),
        (f"=> {graph.finding}" if graph.finding else "", Role.FINDING),
    ):
        if words:
            texts += lines_of(words, role, room, left, bottom_of(texts, top) + 13)
    top = bottom_of(texts, top) + 8
    boxes, arrows, bottom = drawing(graph, routes, columns, left, top)
    frame = replace(at, height=bottom - at.y + (_PADDING if boxes else 0))
    return Panel(design, graph, frame, tuple(texts), tuple(boxes), tuple(arrows))


def _key(graphs: Sequence[Graph], width: float, top: float) -> list[KeyEntry]:
    """Signs of what is in the picture, and of nothing else, in lines."""
    edges = [edge for graph in graphs for edge in graph.edges]
    found: list[tuple[GraphEdge, str]] = []
    plain = GraphEdge("", "", True, "", "")
    for edge, words, used in (
        (plain, "keeps alive", any(edge.pins for edge in edges)),
        (
            replace(plain, pins=False),
            "points to, keeps nothing alive",
            not all(edge.pins for edge in edges),
        ),
        (
            replace(plain, mark=Mark.NEW),
            "+ new in this step",
            any(edge.mark is Mark.NEW for edge in edges),
        ),
        (
            replace(plain, mark=Mark.GONE),
            "- gone in this step",
            any(edge.mark is Mark.GONE for edge in edges),
        ),
        (
            replace(plain, mark=Mark.CHANGED),
            "~ another number",
            any(edge.mark is Mark.CHANGED for edge in edges),
        ),
        (
            replace(plain, evidence=Evidence.SEEN),
            "dot: seen on this host",
            any(edge.evidence is Evidence.SEEN for edge in edges),
        ),
    ):
        if used:
            found.append((edge, words))
    x, y = MARGIN, top + 12
    entries = []
    for edge, words in found:
        long = _SIGN + 8 + width_of(words, Role.KEY)
        if x > MARGIN and x + long > width - MARGIN:
            x, y = MARGIN, y + 19
        head = Rect(x + _SIGN - 9, y - 8, 9, 8)
        sign = Arrow(edge, ((x, y - 4), (x + _SIGN, y - 4)), head, Text("", x, y, Role.KEY))
        entries.append(KeyEntry(sign, Text(words, x + _SIGN + 8, y, Role.KEY)))
        x += long + 22
    return entries
