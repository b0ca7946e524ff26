# SPDX-License-Identifier: MIT
"""Follows a design: what an operation does to a state, with its outcome.

The system decides nothing by itself: refusals come from `pyvmm.rules`, effects from the design's
`Lifecycle`. Whatever breaks while an effect runs (something freed is used, a guest's mapping loses
its page) is a fault of the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pyvmm.errors import UsageError
from pyvmm.lifetime.access_transitions import Accesses
from pyvmm.lifetime.bodies import Bodies
from pyvmm.lifetime.creation_transitions import Creating
from pyvmm.lifetime.descriptor_transitions import Descriptors
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.layout import State
from pyvmm.lifetime.machine_transitions import Machines
from pyvmm.lifetime.operations import Kind, Operation, operations
from pyvmm.lifetime.parts import Do, Part
from pyvmm.lifetime.questions import why_not_bound, why_not_moved
from pyvmm.lifetime.slot_transitions import Slots
from pyvmm.lifetime.universe import Universe
from pyvmm.lifetime.update_transitions import Updates
from pyvmm.rules.rule import Refusal

PARTS: tuple[type[Part], ...] = (Creating, Machines, Slots, Descriptors, Accesses, Updates)
"""Parts that a transition system is made of; each does other kinds of operations."""


class Step(NamedTuple):
    """Result of an operation: its outcome, the state after it, and what broke."""

    outcome: str
    state: State
    faults: tuple[str, ...]


class TransitionSystem:
    """A design over a universe."""

    def __init__(self, design: Design, universe: Universe) -> None:
        self.design = design
        self.universe = universe
        self.bodies = Bodies(design.lifecycle, universe)
        self.layout = self.bodies.layout
        self.operations = tuple(operations(universe, design.system_creation))
        self._do: dict[Kind, Do] = {}
        self._slots = Slots(design, self.bodies)
        self._accesses = Accesses(design, self.bodies)
        for part in PARTS:
            self._do.update(part(design, self.bodies).table())
        for feature, guard in ((universe.moves, Machines), (universe.updates, Updates)):
            if feature:
                guarded = guard(design, self.bodies).guarded
                self._do = {kind: guarded(kind, do) for kind, do in self._do.items()}
        self._table = [(i, each, self._do[each.kind]) for i, each in enumerate(self.operations)]

    @property
    def initial(self) -> State:
        """Nothing exists."""
        return self.layout.initial

    def steps(self, state: State) -> list[tuple[Operation, Step]]:
        """Every operation that can be attempted in `state`, with what it does."""
        return [
            (self.operations[index], Step(outcome, raw, faults))
            for index, outcome, raw, faults in self.moves(state)
        ]

    def moves(self, state: State) -> Iterator[tuple[int, str, State, tuple[str, ...]]]:
        """As `steps`, quicker: the index in `operations`, outcome, state, faults."""
        broken = self.bodies.faults
        for index, operation, do in self._table:
            cells = list(state)
            outcome = do(cells, operation)
            if broken:
                faults = tuple(broken)
                broken.clear()
                if outcome is not None:
                    yield index, outcome, bytes(cells), faults
            elif outcome is not None:
                yield index, outcome, bytes(cells), ()

    def step(self, state: State, operation: Operation) -> Step:
        """Do one operation. Raises `UsageError` where it cannot even be attempted."""
        cells = list(state)
        outcome = self._do[operation.kind](cells, operation)
        faults = tuple(self.bodies.faults)
        self.bodies.faults.clear()
        if outcome is None:
            raise UsageError(f"do '{operation}'", "who would do it lacks what it takes for it")
        return Step(outcome, bytes(cells), faults)

    def why_not(self, state: State, operation: Operation) -> Refusal | None:
        """The rule that refuses a binding, a slot's move, a guest's access; None for all else."""
        if operation.kind in {Kind.GUEST_READ, Kind.GUEST_WRITE}:
            return self._accesses.why_not_served(list(state), operation)
        if operation.kind is Kind.MOVE:
            return why_not_moved(self.design.profile, operation.slot)
        if operation.kind is not Kind.BIND:
            return None
        binding = self._slots.binding(list(state), operation)
        return None if binding is None else why_not_bound(self.design.profile, binding)
