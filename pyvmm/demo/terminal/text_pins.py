# SPDX-License-Identifier: MIT
"""The graph of who keeps what alive as text: what changed in words, then an edge a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pyvmm.demo.telling.outcomes import Observed
from pyvmm.demo.telling.pins_picture import changed_words, pins_of
from pyvmm.demo.terminal.lines import Line, Tone, wrapped
from pyvmm.lifetime.graph import Mark
from pyvmm.lifetime.graph_text import KEY, to_lines

_MOST_CHANGED = 240
"""Letters of a sentence on what changed: a longer one says no more than the marks."""
_ALIVE = {
    True: "exists",
    False: "does not exist",
    None: "nothing on this host tells whether it exists",
}


def pins(before: Observed, after: Observed, width: int, *, legend: bool = True) -> Iterator[Line]:
    """The graph of each design, with marks on what is another than before."""
    drawn = pins_of(after, before if before != after else None)
    if not drawn:
        yield Line("nobody holds anything", Tone.FAINT)
    for number, each in enumerate(drawn):
        graph = each.graphs[-1]
        if each.design:
            yield from wrapped(f"design: {each.design}", width, Tone.HEAD)
        if len(graph.changed) > _MOST_CHANGED:
            graph = replace(graph, changed="all that is marked")
        for line in to_lines(graph, width):
            yield Line(line, Tone.CHANGED if line[:3].strip() in _MARKS else Tone.PLAIN)
        if not number:  # It is the one that is carried out, where that can be.
            yield from _alive(before, after, width)
    if not drawn:
        yield from _alive(before, after, width)
    if drawn and legend:
        yield from key(width)


def _alive(before: Observed, after: Observed, width: int) -> Iterator[Line]:
    """Existence of what no descriptor need be left for."""
    for name, alive in after.alive:
        tone = Tone.PLAIN if (name, alive) in before.alive else Tone.CHANGED
        yield from wrapped(f"{name}: {_ALIVE[alive]}", width, tone, first="  ", rest="    ")


def key(width: int) -> Iterator[Line]:
    """The meaning of marks in a graph."""
    for words in (*KEY, "* seen on this host; all else follows by the rules"):
        yield from wrapped(words, width, Tone.FAINT, rest="  ")


def pins_changed(before: Observed, after: Observed) -> str:
    """The change in a sentence for each design; "" where nothing did."""
    return changed_words(pins_of(after, before))


_MARKS = {one.value for one in (Mark.NEW, Mark.GONE, Mark.CHANGED)}
