# SPDX-License-Identifier: MIT
"""The pictures of docs/lifetime.md, made anew: both designs beside each other, and what goes wrong.

A story that shows a property is the shortest of a small universe; its last moments are drawn, with
what was done before as a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pyvmm.lifetime.adapting import adapted, design_named
from pyvmm.lifetime.explorer import explore
from pyvmm.lifetime.graph import Drawn, Graph, Mark
from pyvmm.lifetime.graph_of_scene import drawn_of
from pyvmm.lifetime.graph_places import place
from pyvmm.lifetime.graph_shapes import Placed
from pyvmm.lifetime.graph_svg import to_svg
from pyvmm.lifetime.operations import Kind
from pyvmm.lifetime.properties import BY_NAME as PROPERTIES
from pyvmm.lifetime.properties import Role
from pyvmm.lifetime.scenarios import BY_NAME
from pyvmm.lifetime.universe import SMALL, VCPUS, Universe

BOTH = ("file-pins-vm", "memslot-pins-file")


@dataclass(frozen=True, slots=True)
class Picture:
    """A counter-example, or a possibility: the story of `name`, a property, under `design`.

    The last `moments` of it are drawn.
    """

    name: str
    design: str
    moments: int = 2
    universe: Universe = SMALL


STORIES = (
    Picture("file-does-not-pin-vm", "file-pins-vm"),
    Picture("closing-is-harmless", "file-pins-vm"),
    Picture("contents-stay", "memslot-pins-file", 4),
    Picture("memory-dies-with-its-vm", "memslot-pins-file"),
    Picture("nothing-dangles", "memslot-pins-file + never-rebind"),
    Picture("slots-keep-contents", "memslot-pins-file + zero-at-unbinding"),
    Picture("cleared-by-owner", "memslot-pins-file + zero-at-rebinding"),
    Picture("slots-can-be-changed", "file-pins-vm", 2, VCPUS),
)
"""Pictures that are a story each; the file has the property's name."""


def pictures() -> dict[str, Placed]:
    """Make all pictures, by the names of their files."""
    found = {"two-designs.svg": _two_designs()}
    found |= {f"{each.name}.svg": _placed(each) for each in STORIES}
    return found


def texts() -> dict[str, str]:
    """Make all pictures as SVG, by the names of their files."""
    return {name: to_svg(placed) for name, placed in pictures().items()}


def _two_designs() -> Placed:
    """The same VM with one slot that is bound, under either design: nobody did anything wrong."""
    scenario = BY_NAME["slot-again"]
    drawn = []
    for name in BOTH:
        design = design_named(name)
        story = adapted(scenario.operations, design, scenario.universe)
        at = next(n for n, told in enumerate(story.steps, 1) if told.operation.kind is Kind.BIND)
        drawn.append(Drawn(name, (_still(drawn_of(story, design).graphs[at]),)))
    return place(drawn, "Who pins whom", "A VM with one memslot, bound to a guest_memfd.")


def _still(graph: Graph) -> Graph:
    """A graph without marks: what there is, whatever was done."""
    nodes = [replace(each, mark=Mark.SAME, was=None) for each in graph.nodes]
    edges = [replace(each, mark=Mark.SAME) for each in graph.edges]
    return Graph("a bound slot", tuple(nodes), tuple(edges))


def _placed(picture: Picture) -> Placed:
    design = design_named(picture.design)
    story = explore(design, picture.universe).stories[picture.name]
    prop = PROPERTIES[picture.name]
    graphs = drawn_of(story, design).graphs
    drawn = graphs[-picture.moments :]
    before = "; ".join(graph.title for graph in graphs[1 : -picture.moments])
    about = f"{prop.sentence} Done before: {before}." if before else prop.sentence
    verdict = "possible" if prop.role is Role.POSSIBILITY else "fails"
    title = f"{picture.name} {verdict}: {picture.design}"
    return place([Drawn(picture.design, drawn)], title, about)
