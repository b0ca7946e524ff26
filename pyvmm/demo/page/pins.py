# SPDX-License-Identifier: MIT
"""The graph of who pins whom as part of a page: drawn, and as a table that says the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pyvmm.demo.page.words import said, table
from pyvmm.demo.telling.outcomes import Observed
from pyvmm.demo.telling.pins_picture import changed_words, pins_of
from pyvmm.lifetime.graph import Drawn, Evidence, Graph, Mark
from pyvmm.lifetime.graph_places import place
from pyvmm.lifetime.graph_shapes import Placed
from pyvmm.lifetime.graph_svg import to_svg

_MARKS = {Mark.NEW: "new", Mark.GONE: "gone", Mark.CHANGED: "another number", Mark.SAME: "-"}
_KEY = (
    "A thick arrow keeps alive what it points to; a dashed one only points. A dot: seen on this "
    "host; what has none follows from the kernel's rules."
)


def graphs_of(now: Observed, before: Observed | None) -> tuple[Graph, ...]:
    """The graphs of a state, for `among` of `graph_html`."""
    return tuple(graph for drawn in pins_of(now, before) for graph in drawn.graphs)


def graph_html(
    now: Observed, before: Observed | None, ids: str, among: Sequence[Graph] = ()
) -> str:
    """The graph of a state, one for each design; "" where there is nothing.

    Objects are where they are in a picture with the graphs of `among`, too.
    """
    drawn = pins_of(now, before)
    if not drawn:
        return ""
    changed = changed_words(drawn)
    # That is said over the picture already.
    bare = [Drawn(one.design, tuple(map(_unsaid, one.graphs))) for one in drawn]
    placed = place(bare, "Who keeps what alive", bare=True, among=among)
    return "".join(
        (
            "<h3>Who keeps what alive</h3>",
            f"<figure>{_caption(changed, before)}",
            f'<div class="scrolls">{_svg(placed, ids)}</div>',
            f'<p class="key">{_KEY}</p>',
            "<details><summary>As a table</summary>",
            *map(_table, drawn),
            "</details></figure>",
        )
    )


def _svg(placed: Placed, ids: str) -> str:
    """The picture as an element of HTML, which knows what an svg is."""
    return to_svg(placed, ids=ids, inline=True).replace(' xmlns="http://www.w3.org/2000/svg"', "")


def _unsaid(graph: Graph) -> Graph:
    return replace(graph, changed="")


def _caption(changed: str, before: Observed | None) -> str:
    if before is None:
        return ""
    words = f"Changed: {changed}." if changed else "Nothing changed in it."
    return f"<figcaption>{said(words)}</figcaption>"


def _table(drawn: Drawn) -> str:
    columns = ("who", "holds", "by", "keeps it alive", "times", "known", "change")
    (graph,) = drawn.graphs
    name = drawn.design or "who keeps what alive"
    finding = f"<p>{said(graph.finding)}</p>" if graph.finding else ""
    return f'<div class="wide">{table(columns, _rows(graph), name)}</div>{finding}'


def _rows(graph: Graph) -> Iterator[tuple[str, ...]]:
    for edge in graph.edges:
        yield (
            said(graph.shown(edge.holder)),
            said(graph.shown(edge.held)),
            said(edge.why),
            "yes" if edge.pins else "no",
            str(edge.times),
            "seen" if edge.evidence is Evidence.SEEN else "by rule",
            _MARKS[edge.mark],
        )
