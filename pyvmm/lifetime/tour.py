# SPDX-License-Identifier: MIT
"""Sequences that together take every transition of a design's state graph.

The graph is the explorer's: one state stands for all that differ in names only, and from it every
operation is attempted. A sequence begins with nothing, goes a shortest way to a state where
something is left to take, takes it, and goes on from there as long as it can; so prefixes are
walked once for many transitions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyvmm.lifetime.canonical import Canonical
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.explorer import Progress
from pyvmm.lifetime.layout import State
from pyvmm.lifetime.operations import Operation
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import Universe

PROGRESS_EVERY = 1024
LONGEST = 120
"""Steps after which a sequence begins no new transition: what differs is easier to see in few."""
NEAR = 2
"""Steps that are gone again to come to a transition that is left."""


@dataclass
class Node:
    """A state, how it was reached first, and what is still to be taken from it.

    `here` are operations that leave it as it is; `away` those that lead to another state of the
    graph; `aside` those to a state that another one stands for. `ways` is what `away` was at first.
    Operations of one kind that lead to the same state differ in names only and are one transition.
    """

    state: State
    parent: int
    by: Operation | None
    here: list[Operation] = field(default_factory=list)
    away: list[tuple[Operation, int]] = field(default_factory=list)
    aside: list[tuple[Operation, int]] = field(default_factory=list)
    ways: tuple[tuple[Operation, int], ...] = ()

    @property
    def is_taken(self) -> bool:
        """True when nothing is left."""
        return not (self.here or self.away or self.aside)


@dataclass
class Tour:
    """The graph of a design over a universe, and the sequences through it.

    `attempted` is what the explorer counts as transitions; `transitions` those that differ in more
    than names.
    """

    design: Design
    universe: Universe
    nodes: list[Node]
    attempted: int

    @property
    def states(self) -> int:
        """States of the graph."""
        return len(self.nodes)

    @property
    def transitions(self) -> int:
        """Transitions that no sequence has taken yet; all of them at first."""
        return sum(len(n.here) + len(n.away) + len(n.aside) for n in self.nodes)

    def left(self) -> set[tuple[State, Operation]]:
        """Those transitions, as state and operation."""
        return {
            (node.state, operation)
            for node in self.nodes
            for operation in (*node.here, *(op for op, _ in (*node.away, *node.aside)))
        }

    def sequences(self) -> Iterator[tuple[Operation, ...]]:
        """Sequences that take every transition; can be gone through once."""
        waiting = deque(range(len(self.nodes)))
        while waiting:
            if self.nodes[waiting[0]].is_taken:
                waiting.popleft()
            else:
                yield tuple(self._sequence(waiting[0]))

    def _sequence(self, here: int) -> list[Operation]:
        steps = self._way_to(here)
        while True:
            node = self.nodes[here]
            steps += node.here
            node.here = []
            if len(steps) < LONGEST:
                if node.away:
                    operation, here = node.away.pop()
                    steps.append(operation)
                    continue
                way, near = self._nearest(here)
                if way:
                    steps += way
                    here = near
                    continue
            if node.aside:
                steps.append(node.aside.pop()[0])
            return steps

    def _nearest(self, start: int) -> tuple[list[Operation], int]:
        """A short way to a state where something is left; no way where none is near."""
        came_from: dict[int, tuple[int, Operation]] = {}
        level = [start]
        for _ in range(NEAR):
            following = []
            for number in level:
                for operation, target in self.nodes[number].ways:
                    if target == start or target in came_from:
                        continue
                    came_from[target] = (number, operation)
                    if self.nodes[target].here or self.nodes[target].away:
                        return self._way_back(came_from, start, target), target
                    following.append(target)
            level = following
        return [], start

    def _way_back(
        self, came_from: dict[int, tuple[int, Operation]], start: int, number: int
    ) -> list[Operation]:
        way = []
        while number != start:
            number, operation = came_from[number]
            way.append(operation)
        return way[::-1]

    def _way_to(self, number: int) -> list[Operation]:
        way: list[Operation] = []
        node = self.nodes[number]
        while node.by is not None:
            way.append(node.by)
            node = self.nodes[node.parent]
        return way[::-1]


def tour(design: Design, universe: Universe, *, progress: Progress | None = None) -> Tour:
    """Build the graph: as long as an exploration takes."""
    system = TransitionSystem(design, universe)
    canonical = Canonical(system.layout)
    start = system.initial
    nodes = [Node(start, 0, None)]
    number_of = {canonical.of(start): 0}
    attempted = 0
    for number, node in enumerate(nodes):  # grows meanwhile
        if progress is not None and number % PROGRESS_EVERY == 0:
            progress(len(nodes), len(nodes) - number)
        for index, _, raw, _ in system.moves(node.state):
            operation = system.operations[index]
            attempted += 1
            if raw == node.state:
                node.here.append(operation)
                continue
            name = canonical.of(raw)
            target = number_of.get(name)
            if target is None:
                target = number_of[name] = len(nodes)
                nodes.append(Node(raw, number, operation))
            if nodes[target].state == raw:
                node.away.append((operation, target))
            else:
                node.aside.append((operation, target))
        taken = {(operation.kind, target) for operation, target in node.away}
        left = {(operation.kind, target): (operation, target) for operation, target in node.aside}
        node.aside = [each for key, each in left.items() if key not in taken]
        away = {(operation.kind, target): (operation, target) for operation, target in node.away}
        node.away = list(away.values())
        node.ways = tuple(node.away)
    return Tour(design, universe, nodes, attempted)
