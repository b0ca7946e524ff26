# SPDX-License-Identifier: MIT
"""A placed picture of graphs as SVG: light and dark, with names for screen readers, no script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from pyvmm.lifetime.graph import Evidence, Graph, Mark
from pyvmm.lifetime.graph_shapes import Arrow, Box, Panel, Placed, Text, width_of

LIGHT = {
    "ink": "#1f2328",
    "faint": "#59636e",
    "paper": "#fff",
    "frame": "#d1d9e0",
    "box": "#f6f8fa",
    "rim": "#59636e",
    "pin": "#0550ae",
    "new": "#116329",
    "gone": "#b42318",
    "changed": "#8a4600",
}
"""Colours by what they are for; written out, since not every viewer knows variables of CSS."""
DARK = {
    "ink": "#e6edf3",
    "faint": "#9198a1",
    "paper": "#0d1117",
    "frame": "#3d444d",
    "box": "#161b22",
    "rim": "#9198a1",
    "pin": "#79b8ff",
    "new": "#56d364",
    "gone": "#ff8178",
    "changed": "#e3a34c",
}
_FORCED = {
    "ink": "CanvasText",
    "faint": "CanvasText",
    "paper": "Canvas",
    "frame": "CanvasText",
    "box": "Canvas",
    "rim": "CanvasText",
    "pin": "LinkText",
    "new": "CanvasText",
    "gone": "GrayText",
    "changed": "CanvasText",
}
_RULES = """
text{fill:var(--ink);white-space:pre;
 font-family:ui-monospace,"DejaVu Sans Mono",Menlo,Consolas,"Liberation Mono",monospace}
.title,.step,.name{font-weight:bold}
.about,.key,.detail,.changed,.design{fill:var(--faint)}
.finding{font-weight:bold}
.paper{fill:var(--paper)} .frame{fill:none;stroke:var(--frame)}
.box rect{fill:var(--box);stroke:var(--rim)}
.edge path{fill:none;stroke:var(--faint);stroke-width:1.3;stroke-dasharray:5 3}
.edge .head{stroke-dasharray:none}
.edge.pins path{stroke:var(--pin);stroke-width:2;stroke-dasharray:none}
.edge.pins .head{fill:var(--pin);stroke-width:1}
.edge circle{fill:var(--ink)} .box circle{fill:var(--ink)}
.edge.new path{stroke:var(--new)} .edge.new .head{stroke:var(--new)}
.edge.new.pins .head{fill:var(--new)} .edge.new text{fill:var(--new);font-weight:bold}
.edge.gone path{stroke:var(--gone);stroke-dasharray:1.5 3} .edge.gone .head{stroke-dasharray:none}
.edge.gone.pins .head{fill:var(--gone)} .edge.gone text{fill:var(--gone)}
.edge.changed path{stroke:var(--changed)} .edge.changed.pins .head{fill:var(--changed)}
.edge.changed text{fill:var(--changed);font-weight:bold}
.box.new rect{stroke:var(--new);stroke-width:2} .box.new .name{fill:var(--new)}
.box.gone rect{fill:none;stroke:var(--gone);stroke-dasharray:3 3}
.box.gone text{fill:var(--gone)}
.changed-detail{fill:var(--changed);font-weight:bold}
.box:focus{outline:2px solid var(--changed);outline-offset:2px}
.edge:focus{outline:none} .edge:focus path{stroke-width:4}
.edge:focus text{text-decoration:underline}
""".strip()


def style(scope: str) -> str:
    """CSS of pictures inside of an element: ``svg.pins`` for those of a page.

    `to_svg` puts it into pictures that stand alone; a page has it once for all of its own.
    """
    rules = _RULES.replace("\n ", " ").replace("} ", "}\n").splitlines()
    return "\n".join(
        (
            f"{scope}{{color-scheme:light dark}}",
            *(_scoped(rule, scope, LIGHT) for rule in rules),
            *_in_media("prefers-color-scheme:dark", rules, scope, DARK),
            *_in_media("forced-colors:active", rules, scope, _FORCED),
        )
    )


def _in_media(
    media: str, rules: Sequence[str], scope: str, colours: Mapping[str, str]
) -> Iterator[str]:
    """The rules once more, as far as they have colours, under a condition."""
    yield f"@media ({media}){{"
    for rule in rules:
        names, _, body = rule.rstrip("}").partition("{")
        coloured = ";".join(part for part in body.split(";") if "var(" in part)
        if coloured:
            yield _scoped(f"{names}{{{coloured}}}", scope, colours)
    yield "}"


def _scoped(rule: str, scope: str, colours: Mapping[str, str]) -> str:
    names, _, body = rule.partition("{")
    for name, colour in colours.items():
        body = body.replace(f"var(--{name})", colour)
    return ",".join(f"{scope} {name.strip()}" for name in names.split(",")) + "{" + body


def to_svg(placed: Placed, *, ids: str = "pins", inline: bool = False) -> str:
    """Write a picture: a file of its own or, `inline`, an element of a page.

    An element has no style (the page has `style`), and its boxes and arrows can be focused, each
    with a name. `ids` begins the ids, of which a page must have each once.
    """
    size = f'width="{placed.width:g}" height="{placed.height:g}"'
    box = f'viewBox="0 0 {placed.width:g} {placed.height:g}"'
    role = "group" if inline else "img"
    names = f'aria-labelledby="{ids}-title"' + ("" if inline else f' aria-describedby="{ids}-desc"')
    out = [] if inline else ['<?xml version="1.0" encoding="UTF-8"?>']
    out.append(
        f'<svg xmlns="http://www.w3.org/2000/svg" class="pins" {size} {box} role="{role}" {names}>'
    )
    out.append(f'<title id="{ids}-title">{escape(placed.title)}</title>')
    if not inline:
        out.append(f'<desc id="{ids}-desc">{escape(_described(placed))}</desc>')
        out.append(f"<style>\n{style('svg.pins')}\n</style>")
    out.append(f'<rect class="paper" {size}/>')
    out += [_text(text) for text in placed.texts]
    hidden = ' aria-hidden="true"' if inline else ""
    for entry in placed.key:
        out.append(f"<g{hidden}>{_arrow(entry.sign, '')}{_text(entry.text)}</g>")
    for panel in placed.panels:
        out += _panel(panel, inline)
    out.append("</svg>")
    return "\n".join(out) + "\n"


def sentences(graph: Graph) -> list[str]:
    """Everything that a graph shows, one sentence each, for who cannot see it."""
    said = [graph.title]
    if graph.changed:
        said.append(f"Changed: {graph.changed}")
    if graph.finding:
        said.append(f"So: {graph.finding}")
    said += [node.about for node in graph.nodes]
    return said + [graph.about(edge) for edge in graph.edges]


def _described(placed: Placed) -> str:
    parts = []
    for panel in placed.panels:
        design = f"{panel.design}: " if panel.design else ""
        parts.append(design + ". ".join(sentences(panel.graph)))
    return ".\n".join(parts) + "."


def _panel(panel: Panel, inline: bool) -> Iterator[str]:
    frame = panel.frame
    label = f' role="group" aria-label="{escape(panel.graph.title)}"' if inline else ""
    yield f"<g{label}>"
    yield (
        f'<rect class="frame" x="{frame.x:g}" y="{frame.y:g}" width="{frame.width:g}" '
        f'height="{frame.height:g}" rx="6"/>'
    )
    for text in panel.texts:
        yield _text(text)
    for box in panel.boxes:
        yield _box(box, _named(box.node.about) if inline else "")
    # What is new or gone is drawn over what stays.
    for arrow in sorted(panel.arrows, key=lambda each: each.edge.mark is not Mark.SAME):
        yield _arrow(arrow, _named(panel.graph.about(arrow.edge)) if inline else "")
    yield "</g>"


def _named(words: str) -> str:
    return f' tabindex="0" role="img" aria-label="{escape(words)}"'


def _classes(kind: str, mark: Mark, more: bool = False) -> str:
    marked = "" if mark is Mark.SAME else f" {mark.name.lower()}"
    return f'class="{kind}{" pins" if more else ""}{marked}"'


def _box(box: Box, named: str) -> str:
    rect = box.rect
    parts = [
        f"<g {_classes('box', box.node.mark)}{named}>",
        f'<rect x="{rect.x:g}" y="{rect.y:g}" width="{rect.width:g}" '
        f'height="{rect.height:g}" rx="4"/>',
    ]
    if box.node.evidence is Evidence.SEEN:
        parts.append(_dot(rect.right - 5, rect.y + 5))
    return "".join((*parts, *map(_text, box.texts), "</g>"))


def _arrow(arrow: Arrow, named: str) -> str:
    *_, (from_x, from_y), (x, y) = arrow.points
    head = arrow.head
    # The line ends inside of the head; from its base a filled head begins.
    if from_y == y:
        back = head.right if from_x > x else head.x
        line_end = (back, y) if arrow.edge.pins else (x, y)
        corners = f"M{back:g} {head.y:g}L{x:g} {y:g}L{back:g} {head.bottom:g}"
    else:
        back = head.bottom if from_y > y else head.y
        line_end = (x, back) if arrow.edge.pins else (x, y)
        corners = f"M{head.x:g} {back:g}L{x:g} {y:g}L{head.right:g} {back:g}"
    way = "L".join(f"{px:g} {py:g}" for px, py in (*arrow.points[:-1], line_end))
    parts = [
        f"<g {_classes('edge', arrow.edge.mark, arrow.edge.pins)}{named}>",
        f'<path d="M{way}"/><path class="head" d="{corners}{"Z" if arrow.edge.pins else ""}"/>',
    ]
    if arrow.edge.evidence is Evidence.SEEN:
        parts.append(_dot(*arrow.points[0]))
    if arrow.label.words:
        parts.append(_text(arrow.label))
    return "".join((*parts, "</g>"))


def _dot(x: float, y: float) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="2.5"/>'


def _text(text: Text) -> str:
    """Write a text as wide as it was placed, in whatever font there is."""
    length = width_of(text.words, text.role)
    size = f'font-size="{text.role.size:g}" textLength="{length:g}"'
    return (
        f'<text class="{text.role.value[0]}" x="{text.x:g}" y="{text.y:g}" {size} '
        f'lengthAdjust="spacingAndGlyphs">{escape(text.words)}</text>'
    )
