# SPDX-License-Identifier: MIT
"""The graph of who pins whom, as values: objects, who holds whom and why, and what a step changed.

A graph is drawn by `graph_svg` (after `graph_places`) and by `graph_text`; `graph_of_scene` makes
one of a state of a design. Nothing here knows designs or layouts.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pyvmm.visible import visible


class NodeKind(enum.Enum):
    """Kinds of objects; `OTHER` is any that has no place in `COLUMNS` yet."""

    PROCESS = "process"
    SESSION = "session"
    RECORD = "record"
    OTHER = "other"
    VCPU = "vcpu"
    VM = "vm"
    SLOT = "slot"
    FILE = "file"
    INODE = "inode"


COLUMNS = (
    (NodeKind.PROCESS, NodeKind.SESSION),
    (NodeKind.OTHER,),
    (NodeKind.VCPU,),
    (NodeKind.VM, NodeKind.RECORD),
    (NodeKind.SLOT,),
    (NodeKind.FILE,),
    (NodeKind.INODE,),
)
"""Kinds that share a column of a picture, the first one above; columns from left to right."""


class Evidence(enum.Enum):
    """Source of a node or an edge."""

    SEEN = "seen"
    """On this host: a descriptor in /proc/self/fd, a mapping, a VM in debugfs."""
    RULE = "by rule"
    """A reference or pointer inside the kernel, as the design's rules have it."""


class Mark(enum.Enum):
    """Change of a node or an edge since the step before; the value is how text marks it."""

    SAME = " "
    NEW = "+"
    GONE = "-"
    CHANGED = "~"
    """There before and after, but another number of times."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """An object. `references` is its count, `was` the count before where that was another.

    `shown` is its name for readers; `notes` are short words on what is in it; `noted`: they were
    others before.
    """

    name: str
    kind: NodeKind
    shown: str
    references: int | None = None
    notes: tuple[str, ...] = ()
    evidence: Evidence = Evidence.RULE
    mark: Mark = Mark.SAME
    was: int | None = None
    noted: bool = False

    @property
    def counted(self) -> str:
        """The count in a word or two: ``2 refs``, ``refs 1->2``, ``freed``; "" for no count."""
        if self.mark is Mark.GONE:
            if self.references is not None:
                return "freed"
            return "deleted" if self.kind is NodeKind.SLOT else "gone"
        if self.references is None:
            return ""
        if self.was is not None:
            return f"refs {self.was}->{self.references}"
        return f"{self.references} ref" + "s" * (self.references != 1)

    @property
    def about(self) -> str:
        """The node in a sentence, for who cannot see it."""
        words = [self.shown]
        if self.mark is Mark.NEW:
            words.append("new in this step")
        if self.mark is Mark.GONE:
            words.append(f"{self.counted} in this step")
        elif self.references is not None:
            before = "" if self.was is None else f", {self.was} before"
            words.append(f"{self.references} reference{'s' * (self.references != 1)}{before}")
        if self.evidence is Evidence.SEEN:
            words.append("seen on this host")
        return ": ".join((words[0], "; ".join((*words[1:], *self.notes)) or "an object"))


@dataclass(frozen=True, slots=True)
class GraphEdge:
    """`holder` holds `held` (names of nodes), `times` times; `pins`: it keeps it alive.

    `label` is the reason in a word or two, `why` in a few.
    """

    holder: str
    held: str
    pins: bool
    label: str
    why: str
    times: int = 1
    evidence: Evidence = Evidence.RULE
    mark: Mark = Mark.SAME

    @property
    def identity(self) -> tuple[str, str, bool, str]:
        """Names of its ends, and its reason: the same edge before and after a step."""
        return self.holder, self.held, self.pins, self.label

    @property
    def labelled(self) -> str:
        """The label as it stands beside an arrow: with its mark, and how many times."""
        often = f" x{self.times}" if self.times > 1 or self.mark is Mark.CHANGED else ""
        return f"{self.mark.value} {self.label}{often}".strip()


@dataclass(frozen=True, slots=True)
class Graph:
    """A moment. `changed` says what is another than before, `finding` what is shown or broke."""

    title: str
    nodes: tuple[GraphNode, ...]
    edges: tuple[GraphEdge, ...]
    changed: str = ""
    finding: str = ""

    def shown(self, name: str) -> str:
        """A node's name for readers."""
        return next((node.shown for node in self.nodes if node.name == name), name)

    def about(self, edge: GraphEdge) -> str:
        """An edge in a sentence, for who cannot see it."""
        if edge.mark is Mark.GONE:
            verb = "no longer keeps alive" if edge.pins else "no longer points to"
        else:
            verb = "keeps alive" if edge.pins else "points to, without keeping alive,"
        words = f"{self.shown(edge.holder)} {verb} {self.shown(edge.held)}: {edge.why}"
        if edge.times > 1:
            words += f", {edge.times} times"
        if edge.mark is Mark.NEW:
            words += "; new in this step"
        if edge.mark is Mark.CHANGED:
            words += "; another number in this step"
        return words + ("; seen on this host" if edge.evidence is Evidence.SEEN else "")


@dataclass(frozen=True, slots=True)
class Drawn:
    """A story under one design: the graph before the first step, and one after each."""

    design: str
    graphs: tuple[Graph, ...]


def printable(drawn: Sequence[Drawn]) -> list[Drawn]:
    """The same with all words as they can be shown, whatever a story's file had in them."""
    return [
        Drawn(visible(each.design), tuple(_printable(graph) for graph in each.graphs))
        for each in drawn
    ]


def _printable(graph: Graph) -> Graph:
    return Graph(
        visible(graph.title),
        tuple(
            replace(node, shown=visible(node.shown), notes=tuple(map(visible, node.notes)))
            for node in graph.nodes
        ),
        tuple(
            replace(edge, label=visible(edge.label), why=visible(edge.why)) for edge in graph.edges
        ),
        visible(graph.changed),
        visible(graph.finding),
    )


def since(before: Graph | None, now: Graph) -> Graph:
    """`now` with marks, with what is gone since `before`, and with the sentence that says so.

    Without `before` nothing is marked. A process is never new or gone: it only holds something or
    nothing.
    """
    if before is None:
        return now
    old_nodes = {node.name: node for node in before.nodes if node.mark is not Mark.GONE}
    old_edges = {edge.identity: edge for edge in before.edges if edge.mark is not Mark.GONE}
    nodes = [_node_since(old_nodes.get(node.name), node) for node in now.nodes]
    edges = _edges_since(old_edges, now.edges)
    known = {node.name for node in nodes}
    for name, node in old_nodes.items():
        if name not in known:
            mark = Mark.SAME if node.kind is NodeKind.PROCESS else Mark.GONE
            nodes.append(replace(node, mark=mark, was=None, notes=()))
    nodes.sort(key=lambda node: (list(NodeKind).index(node.kind), node.name))
    marked = replace(now, nodes=tuple(nodes), edges=tuple(edges))
    return replace(marked, changed=_changed(old_nodes, marked))


def _node_since(old: GraphNode | None, node: GraphNode) -> GraphNode:
    if old is None:
        return node if node.kind is NodeKind.PROCESS else replace(node, mark=Mark.NEW)
    counted = old.references != node.references
    noted = old.notes != node.notes
    if not counted and not noted:
        return node
    was = old.references if counted else None
    return replace(node, mark=Mark.CHANGED, was=was, noted=noted)


def _edges_since(
    old: dict[tuple[str, str, bool, str], GraphEdge], now: Sequence[GraphEdge]
) -> list[GraphEdge]:
    """Edges of now with their marks, and those that are gone where they were before."""
    edges = [_edge_since(old.get(edge.identity), edge) for edge in now]
    kept = [edge.identity for edge in edges]
    at = 0
    for key, edge in old.items():
        if key in kept:
            at = kept.index(key) + 1
        else:
            edges.insert(at, replace(edge, mark=Mark.GONE))
            kept.insert(at, key)
            at += 1
    return edges


def _edge_since(old: GraphEdge | None, edge: GraphEdge) -> GraphEdge:
    if old is None:
        return replace(edge, mark=Mark.NEW)
    return edge if old.times == edge.times else replace(edge, mark=Mark.CHANGED)


def _changed(old: dict[str, GraphNode], graph: Graph) -> str:
    """Say what the marks say."""
    said: list[str] = []
    for mark, verb in ((Mark.NEW, "new"), (Mark.GONE, "")):
        for word, shown in _by_word(graph.nodes, mark, verb):
            said.append(f"{_listed(shown)} {'is' if len(shown) == 1 else 'are'} {word}")
    gone = {node.name for node in graph.nodes if node.mark is Mark.GONE}
    for edges, words in _by_holder(graph, gone):
        held = _listed([f"{graph.shown(edge.held)} ({_often(edge)})" for edge in edges])
        said.append(f"{graph.shown(edges[0].holder)} {words} {held}")
    for node in graph.nodes:
        if node.was is not None:
            said.append(f"references on {node.shown}: {node.was} -> {node.references}")
        before = old.get(node.name)
        if node.mark is not Mark.GONE and (node.noted or (before is None and node.notes)):
            said.append(f"in {node.shown}: {', '.join(node.notes) or 'nothing any more'}")
    return "; ".join(said) or "nothing"


def _by_word(
    nodes: Iterable[GraphNode], mark: Mark, word: str
) -> Iterator[tuple[str, Sequence[str]]]:
    found: dict[str, list[str]] = {}
    for node in nodes:
        if node.mark is mark:
            found.setdefault(word or node.counted, []).append(node.shown)
    yield from found.items()


def _by_holder(graph: Graph, gone: set[str]) -> Iterator[tuple[list[GraphEdge], str]]:
    """Changed edges of one holder and one kind of change, with its verb.

    That what is gone points nowhere any more goes without saying, and that nobody points there;
    that it no longer keeps alive what is still there does not.
    """
    found: dict[tuple[str, str], list[GraphEdge]] = {}
    for edge in graph.edges:
        if edge.mark is Mark.NEW:
            words = "pins" if edge.pins else "points to"
        elif edge.mark is Mark.CHANGED:
            words = "now has"
        elif (
            edge.mark is Mark.GONE
            and edge.held not in gone
            and (edge.pins or edge.holder not in gone)
        ):
            words = "no longer pins" if edge.pins else "no longer points to"
        else:
            continue
        found.setdefault((edge.holder, words), []).append(edge)
    for (_, words), edges in found.items():
        yield edges, words


def _often(edge: GraphEdge) -> str:
    often = edge.times > 1 or edge.mark is Mark.CHANGED
    return f"{edge.label} x{edge.times}" if often else edge.label


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
