# SPDX-License-Identifier: MIT
"""Graphs of states of a design: of any moment, and of every step of a story.

Objects and edges are those that `pyvmm.lifetime.holdings` finds; a new kind of either shows without
a change here, at worst among the others and under its full reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.graph import Drawn, Evidence, Graph, GraphEdge, GraphNode, NodeKind, since
from pyvmm.lifetime.holdings import Holding, counts, holdings
from pyvmm.lifetime.layout import INODE_TAGS, VM_MACHINE, Layout, State
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.transitions import TransitionSystem

_NAMES = {"process0": "parent", "process1": "child"}
_LABELS = {
    "VCPU": "vCPU descriptor",
    "HELPER": "reference",
    "SESSION": "reference",
    "RECORD_PAGES": "its pages",
    "RECORD_OF": "its VM",
    "FILE_PINS_VM": "reference",
    "SLOT_PINS_FILE": "reference",
    "INODE": "its inode",
    "VM_POINTER": "pointer",
    "FILE_POINTER": "pointer",
    "SLOT_OF_VM": "its slot",
    "BINDING": "binding",
    "GUEST_MAPPING": "guest maps",
}
"""Short labels by the names of `Why`; one that is missing here has its value as label."""
_KINDS = {kind.value: kind for kind in NodeKind}


@dataclass(frozen=True, slots=True)
class Scene:
    """A state in words: what was done to come here, who holds whom, and what is in it.

    `objects` are names and reference counts; `notes` what is in an object, by its name. `seen` are
    names of objects and edges that were seen on a host, and not only follow by the rules. `finding`
    is what broke in this step, or what a story shows.
    """

    title: str
    objects: tuple[tuple[str, int], ...]
    edges: tuple[Holding, ...]
    notes: tuple[tuple[str, str], ...] = ()
    seen: frozenset[str | Holding] = frozenset()
    finding: str = ""


def scene_of(
    system: TransitionSystem,
    state: State,
    title: str,
    *,
    finding: str = "",
    seen: Collection[str | Holding] = (),
) -> Scene:
    """Look at a state of a design."""
    return Scene(
        title,
        tuple(counts(system.layout, state).items()),
        holdings(system.design.lifecycle, system.layout, state),
        tuple(_notes(system.layout, state)),
        frozenset(seen),
        finding,
    )


def graph_of(scene: Scene, before: Scene | None = None) -> Graph:
    """Make the graph of a moment, with marks on what is another than `before`."""
    return since(None if before is None else _graph(before), _graph(scene))


def drawn_of(story: Story, design: Design) -> Drawn:
    """Follow a story, whose steps the design must know, and keep a graph of every moment."""
    system = TransitionSystem(design, story.universe)
    state = system.initial
    scene = scene_of(system, state, "at first: nothing")
    graphs = [graph_of(scene)]
    for number, told in enumerate(story.steps, 1):
        step = system.step(state, told.operation)
        state, before = step.state, scene
        outcome = "" if step.outcome == "ok" else f" -> {step.outcome}"
        broken = [*step.faults, *([story.ending] if number == len(story.steps) else [])]
        scene = scene_of(
            system,
            state,
            f"{number}. {told.operation}{outcome}",
            finding="; ".join(filter(None, broken)),
        )
        graphs.append(graph_of(scene, before))
    return Drawn(design.name, tuple(graphs))


def shown_name(name: str) -> str:
    """An object's name as it is drawn."""
    return _NAMES.get(name, name)


def _notes(layout: Layout, state: State) -> Iterator[tuple[str, str]]:
    """Notes on what is in objects besides edges, as far as the universe has it."""
    for kind, places, cell, words in (
        ("vm", layout.vm, layout.vm_private, "private memory"),
        ("vm", layout.vm, layout.vm_dead, "gave its memory away"),
        ("inode", layout.inode, layout.inode_private, "host cannot map"),
        ("inode", layout.inode, layout.frozen, "frozen"),
    ):
        for number, at in enumerate(places):
            if cell >= 0 and state[at] and state[at + cell]:
                yield f"{kind}{number}", words
    for number, at in enumerate(layout.inode):
        for page in range(layout.universe.pages):
            if state[at + INODE_TAGS + page]:
                whose = _writer(layout, state, state[at + INODE_TAGS + page])
                yield f"inode{number}", f"page{page} written by {whose}"
            if layout.page_errors >= 0 and state[at + layout.page_errors + page]:
                yield f"inode{number}", f"page{page} has an error"


def _writer(layout: Layout, state: State, machine: int) -> str:
    """A VM of a virtual machine, or the record that keeps it."""
    for v, at in enumerate(layout.vm):
        if state[at + VM_MACHINE] == machine:
            return f"vm{v}"
    for number, at in enumerate(layout.vm_record):
        if state[at + layout.record_machine] == machine:
            return f"the VM of record{number}"
    return "a freed VM"


def _graph(scene: Scene) -> Graph:
    references = dict(scene.objects)
    times = Counter(scene.edges)
    names = list(references)
    for holding in times:
        names += [_object(holding.holder), _object(holding.held)]
    nodes = [
        GraphNode(
            name,
            _KINDS.get(re.sub("[0-9]+$", "", name), NodeKind.OTHER),
            shown_name(name),
            references.get(name),
            tuple(note for of, note in scene.notes if of == name),
            Evidence.SEEN if name in scene.seen else Evidence.RULE,
        )
        for name in dict.fromkeys(names)
    ]
    nodes.sort(key=lambda node: (list(NodeKind).index(node.kind), node.name))
    edges = tuple(_edge(scene, holding, number) for holding, number in times.items())
    return Graph(scene.title, tuple(nodes), edges, "", scene.finding)


def _edge(scene: Scene, holding: Holding, times: int) -> GraphEdge:
    part = holding.held.partition(" ")[2]
    label = _LABELS.get(holding.why.name, holding.why.value)
    return GraphEdge(
        _object(holding.holder),
        _object(holding.held),
        holding.why.pins,
        f"{label} {part}".strip(),
        f"{holding.why.value} {part}".strip(),
        times,
        Evidence.SEEN if holding in scene.seen else Evidence.RULE,
    )


def _object(name: str) -> str:
    """``inode0`` for ``inode0 page1``."""
    return name.partition(" ")[0]
