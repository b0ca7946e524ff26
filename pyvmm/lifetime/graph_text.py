# SPDX-License-Identifier: MIT
"""Graphs of who pins whom in plain ASCII, for terminals: an edge a line, marked as in pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from pyvmm.lifetime.graph import Drawn, Evidence, Graph, GraphNode, Mark, printable

COLUMN = 62
"""Letters across one design where two are side by side."""
KEY = (
    "==> keeps alive    --> points to, keeps nothing alive    (n) references",
    "+ new in this step    - gone in this step    ~ another number",
)
_SEEN = "* seen on this host"
_END = "(cannot be done in this design)"


def width(stories: int) -> int:
    """Compute the letters that `stories` stories take side by side."""
    return stories * (COLUMN + 3) - 3


def to_lines(graph: Graph, wide: int = COLUMN) -> list[str]:
    """Lines of a graph, at most `wide` letters each."""
    (graph,) = printable([Drawn("", (graph,))])[0].graphs
    lines = _wrapped(graph.title, wide, "")
    if graph.changed:
        lines += _wrapped(f"changed: {graph.changed}", wide, "   ")
    if graph.finding:
        lines += _wrapped(f"=> {graph.finding}", wide, "   ")
    lines += _edges(graph, wide)
    if not graph.edges and graph.changed:
        lines.append("   (nothing)")
    for node in graph.nodes:
        for note in node.notes:
            lines += _wrapped(f"in {node.shown}: {note}", wide, "   ")
    return lines


def to_text(drawn: Sequence[Drawn], wide: int | None = None) -> list[str]:
    """Lines of stories: side by side where there is room, else one after the other.

    `wide` is the number of letters in a line, None for any number.
    """
    lines = [line for words in _key(drawn) for line in _wrapped(words, wide or width(2), "")]
    if len(drawn) > 1 and (wide is None or wide >= width(len(drawn))):
        lines += _beside(drawn)
        return lines
    for each in drawn:
        lines += ["", each.design, "=" * len(each.design)]
        for graph in each.graphs:
            lines += ["", *to_lines(graph, wide or width(2))]
    return lines


def _key(drawn: Sequence[Drawn]) -> list[str]:
    edges = [edge for each in drawn for graph in each.graphs for edge in graph.edges]
    seen = any(edge.evidence is Evidence.SEEN for edge in edges)
    return [*KEY, _SEEN] if seen else [*KEY]


def _beside(drawn: Sequence[Drawn]) -> list[str]:
    lines = [
        "",
        _row([each.design for each in drawn]),
        _row(["=" * len(each.design) for each in drawn]),
    ]
    for graphs in zip_longest(*(each.graphs for each in drawn)):
        columns = [[_END] if graph is None else to_lines(graph) for graph in graphs]
        lines.append("")
        lines += [_row(row) for row in zip_longest(*columns, fillvalue="")]
    return lines


def _row(columns: Sequence[str]) -> str:
    return " | ".join(each.ljust(COLUMN) for each in columns).rstrip(" |")


def _wrapped(words: str, wide: int, indent: str) -> list[str]:
    return textwrap.wrap(
        words, max(wide, 10), initial_indent=indent, subsequent_indent=indent + "  "
    )


def _box(node: GraphNode) -> str:
    if node.mark is Mark.GONE:
        number = f" {node.counted}"
    elif node.references is None:
        number = ""
    else:
        number = f"({node.references})" if node.was is None else f"({node.was}->{node.references})"
    return f"[{node.shown}{number}]"


def _edges(graph: Graph, wide: int) -> list[str]:
    """A line for each edge; two for each where one would be too long."""
    shown = {node.name: _box(node) for node in graph.nodes}
    holders = max((len(shown[edge.holder]) for edge in graph.edges), default=0)
    held = max((len(shown[edge.held]) for edge in graph.edges), default=0)
    lines, narrow = [], []
    for edge in graph.edges:
        arrow = "==>" if edge.pins else "-->"
        often = f" x{edge.times}" if edge.times > 1 or edge.mark is Mark.CHANGED else ""
        seen = " *" if edge.evidence is Evidence.SEEN else ""
        ends = shown[edge.holder].ljust(holders), shown[edge.held].ljust(held)
        lines.append(f" {edge.mark.value} {ends[0]} {arrow} {ends[1]}  {edge.label}{often}{seen}")
        narrow.append(f" {edge.mark.value} {shown[edge.holder]} {arrow} {shown[edge.held]}")
        narrow.append(f"       {edge.label}{often}{seen}")
    return lines if max(map(len, lines), default=0) <= wide else narrow
