# SPDX-License-Identifier: MIT
"""Findings of one step: the properties that it violates, as an exploration finds them."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.lifetime.checks import World
from pyvmm.lifetime.layout import State
from pyvmm.lifetime.operations import Operation
from pyvmm.lifetime.properties import Property, Role, properties_of
from pyvmm.lifetime.transitions import Step, TransitionSystem


@dataclass(frozen=True, slots=True)
class Finding:
    """A property, by its name, and what is wrong in one line."""

    name: str
    role: Role
    wrong: str

    def __str__(self) -> str:
        return f"{self.wrong} ({self.role.verb} {self.name})"


class Findings:
    """Properties of one design over a universe, to be checked step by step."""

    def __init__(self, system: TransitionSystem) -> None:
        self._properties = properties_of(system.universe)
        lifecycle = system.design.lifecycle
        self._world = World.of(lifecycle, system.layout, lifecycle)

    def of(self, before: State, operation: Operation, step: Step) -> tuple[Finding, ...]:
        """The properties that a step violates, or its state does and the one before did not."""
        found = []
        for each in self._properties:
            wrong = self._violated(each, before, operation, step)
            if wrong is not None:
                found.append(Finding(each.name, each.role, wrong))
        return tuple(found)

    def _violated(
        self, each: Property, before: State, operation: Operation, step: Step
    ) -> str | None:
        fault = next((fault for fault in step.faults if fault in each.faults), None)
        if fault is not None:
            return fault
        if each.step is not None and operation.kind in each.kinds:
            wrong = each.step(self._world, before, operation, step.outcome, step.state)
            if wrong is not None:
                return wrong
        if each.state is None or each.state(self._world, before) is not None:
            return None
        return each.state(self._world, step.state)
