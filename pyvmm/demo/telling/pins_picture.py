# SPDX-License-Identifier: MIT
"""The graph of who pins whom on a stage, from its state alone.

Descriptors and mappings of the process are seen there; what files, VMs and slots hold of each other
is inside the kernel and follows from the rules (docs/lifetime.md): a file pins the VM that made it,
a slot and its file only point to each other. `lifetime.graph_text` and `lifetime.graph_places` draw
what is made here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pyvmm.demo.telling.outcomes import Observed
from pyvmm.lifetime.graph import Drawn, Evidence, Graph, GraphEdge, GraphNode, NodeKind, since
from pyvmm.lifetime.graph_of_scene import graph_of

PROCESS = "process"
_HELD_PAGE = "page"
_LABELS = {"mapping": "mapping", "vcpu": "vCPU descriptor", _HELD_PAGE: "reference on a page"}
"""Labels of edges by what is held, but for descriptors of VMs and files."""
_TITLE = "who keeps what alive"


def pins_of(now: Observed, before: Observed | None = None) -> tuple[Drawn, ...]:
    """Draw a state: one graph on a bare or private stage, one for each design on a pins stage.

    What is another than `before` is marked, and `Graph.changed` says it in words. None at all where
    there is nothing, and was nothing before.
    """
    if now.scenes:
        old = dict(before.scenes) if before is not None else {}
        return tuple(
            Drawn(design, (graph_of(scene, old.get(design)),)) for design, scene in now.scenes
        )
    graph = since(None if before is None else graph_of_stage(before), graph_of_stage(now))
    return (Drawn("", (graph,)),) if graph.nodes else ()


def changed_words(drawn: tuple[Drawn, ...]) -> str:
    """Say what changed, in a sentence for each design; "" where nothing did."""
    said = []
    for each in drawn:
        changed = each.graphs[-1].changed
        if changed not in ("", "nothing"):
            said.append(f"{each.design}: {changed}" if each.design else changed)
    return ". ".join(said)


def graph_of_stage(observed: Observed) -> Graph:
    """Make the graph of a bare or private stage, without marks."""
    edges = tuple(_Edges(observed))
    references: Counter[str] = Counter()
    for edge in edges:
        if edge.pins:
            references[edge.held] += edge.times
    seen = dict(observed.alive)
    names = dict.fromkeys(name for edge in edges for name in (edge.holder, edge.held))
    unheld = [name for name, alive in seen.items() if alive and name not in names]
    nodes = [
        GraphNode(
            name,
            _kind(name),
            _shown(name),
            references[name] if _kind(name) in _COUNTED else None,
            evidence=Evidence.SEEN if seen.get(name) or name == PROCESS else Evidence.RULE,
        )
        for name in sorted((*names, *unheld), key=_place)
    ]
    gone = [name for name in names if seen.get(name) is False]
    finding = "; ".join(
        [f"{name} is still there, though by the rules nobody holds it" for name in unheld]
        + [f"{name} is gone, though by the rules it is held" for name in gone]
    )
    return Graph(_TITLE, tuple(nodes), edges, "", finding)


_COUNTED = (NodeKind.VM, NodeKind.FILE, NodeKind.INODE)


def _slot(vm: int, slot: int) -> str:
    return f"slot {vm} {slot}"


def _kind(name: str) -> NodeKind:
    first = name.partition(" ")[0]
    kinds = {kind.value: kind for kind in NodeKind}
    return kinds.get(first, NodeKind.OTHER)


def _place(name: str) -> tuple[int, list[int]]:
    """Sorting key: by kind, then by numbers."""
    return list(NodeKind).index(_kind(name)), [int(one) for one in name.split(" ")[1:]]


def _shown(name: str) -> str:
    """A name for readers: slots of VM 0 go without its name."""
    first, *numbers = name.split(" ")
    if first != "slot":
        return name
    vm, slot = numbers
    return f"slot {slot}" if vm == "0" else f"slot {slot} of vm {vm}"


class _Edges:
    """Holders and what they hold: of files and VMs that nobody holds nothing is left."""

    def __init__(self, observed: Observed) -> None:
        self._held = Counter(observed.held)
        self._origins = dict(observed.origins)
        for file, vm, _ in observed.bound:
            self._origins.setdefault(f"file {file}", f"vm {vm}")
        self._files = self._living("file", "mapping")
        vms = self._living("vm", "vcpu")
        vms |= {self._origins[name] for name in self._files if name in self._origins}
        self._vms = vms
        self._slots = sorted({*observed.slots, *((vm, slot) for _, vm, slot in observed.bound)})
        self._bound = dict.fromkeys(observed.bound)

    def _living(self, kind: str, over: str) -> set[str]:
        """Objects of a kind that the process holds, by descriptors or by what was made of them."""
        names = {name for name in self._held if name.startswith(f"{kind} ")}
        made = (self._origins.get(name) for name in self._held if name.startswith(f"{over} "))
        return names | {name for name in made if name is not None}

    def __iter__(self) -> Iterator[GraphEdge]:
        yield from self._of_process()
        for name in sorted(self._files):
            inode = name.replace("file", "inode")
            if name in self._origins:
                why = "the file's reference on its VM"
                yield GraphEdge(name, self._origins[name], True, "reference", why)
            yield GraphEdge(name, inode, True, "its inode", "the file's inode")
        for vm, slot in self._slots:
            if f"vm {vm}" in self._vms:
                held = _slot(vm, slot)
                yield GraphEdge(f"vm {vm}", held, False, "its slot", "the VM's slot")
        for file, vm, slot in self._bound:
            if f"file {file}" in self._files and f"vm {vm}" in self._vms:
                at, name = _slot(vm, slot), f"file {file}"
                why = "the slot's file pointer, no reference"
                yield GraphEdge(at, name, False, "pointer", why)
                yield GraphEdge(name, at, False, "binding", "the file's binding")

    def _of_process(self) -> Iterator[GraphEdge]:
        """Descriptors and mappings, which are seen."""
        found: Counter[tuple[str, str]] = Counter()
        for name, times in self._held.items():
            kind = name.partition(" ")[0]
            if kind in ("vm", "file"):
                found[name, "descriptor"] += times
            elif name in self._origins and (
                kind != _HELD_PAGE or self._has_inode(self._origins[name])
            ):
                found[self._origins[name], _LABELS.get(kind, kind)] += times
        for (held, label), times in sorted(found.items()):
            pins = label != _LABELS[_HELD_PAGE]
            yield GraphEdge(PROCESS, held, pins, label, label, times, Evidence.SEEN)

    def _has_inode(self, name: str) -> bool:
        """Tell whether an inode is drawn: its file lives."""
        return name.replace("inode", "file") in self._files
