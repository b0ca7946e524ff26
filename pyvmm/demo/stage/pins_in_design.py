# SPDX-License-Identifier: MIT
"""One design on a stage for who pins whom: its state, and its moment as a scene."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pyvmm.demo.telling.outcomes import Answer
from pyvmm.errors import UsageError
from pyvmm.lifetime.adapting import for_design
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.findings import Findings
from pyvmm.lifetime.graph_of_scene import Scene, scene_of
from pyvmm.lifetime.layout import FILE_HANDLES, INODE_FILES, SLOT_VM, VM_HANDLES
from pyvmm.lifetime.operations import Operation
from pyvmm.lifetime.properties import Role
from pyvmm.lifetime.transitions import Step, TransitionSystem
from pyvmm.lifetime.universe import Universe
from pyvmm.replay.differences import Difference
from pyvmm.rules.rule import Refusal

if TYPE_CHECKING:
    from pyvmm.demo.stage.pins_on_host import PinsOnHost

_NO_FAULTS = frozenset({Role.POSSIBILITY, Role.CARE})
NOT_ATTEMPTED = "cannot be attempted"


@dataclass(frozen=True, slots=True)
class Followed:
    """An operation in one design; `byte` is what was read on a host.

    `refusal` is the rule that refused it, `difference` that of the host from the model.
    """

    answer: Answer
    byte: int | None = None
    refusal: Refusal | None = None
    difference: Difference | None = None


class DesignOnStage:
    """A design over a universe, from nothing on; with `host` it is carried out there as well."""

    def __init__(self, design: Design, universe: Universe, host: PinsOnHost | None = None) -> None:
        """`host` is not owned, and is at its beginning."""
        self.name = design.name
        self.host = host
        self._system = TransitionSystem(design, universe)
        self._known = frozenset(self._system.operations)
        self._findings = Findings(self._system)
        self._layout = self._system.layout
        self._state = self._system.initial
        self._existed: set[str] = set()
        self.scene = scene_of(self._system, self._state, "at first: nothing")

    def adapted(self, operation: Operation) -> Operation | None:
        """The operation as this design has it; None where its universe has none such."""
        wanted = for_design(operation, self._system.design)
        return wanted if wanted in self._known else None

    def follow(self, operation: Operation, number: int) -> Followed:
        """Do the stage's operation of this number, of those that `adapted` gives."""
        before = self._state
        try:
            done, step = self._done(operation)
        except UsageError:
            self.scene = self._scene(f"{number}. {operation}: {NOT_ATTEMPTED}")
            return Followed(Answer(self.name, ""))
        found = self._findings.of(before, operation, step)
        self._state = step.state
        self._existed |= {name for name, exists in self.objects() if exists}
        outcome = "" if done.answer.answer == "ok" else f" -> {done.answer.answer}"
        told = [str(one) for one in found]
        if done.difference is not None:
            told.append(difference_line(done.difference))
        self.scene = self._scene(f"{number}. {operation}{outcome}", "; ".join(told))
        violated = tuple(one.name for one in found if one.role not in _NO_FAULTS)
        answer = Answer(self.name, done.answer.answer, violated)
        return Followed(answer, done.byte, done.refusal, done.difference)

    def _done(self, operation: Operation) -> tuple[Followed, Step]:
        """Do it on host and model, or on the model. Raises `UsageError` where it cannot be."""
        refusal = self._system.why_not(self._state, operation)
        if self.host is None:
            step = self._system.step(self._state, operation)
            return Followed(Answer(self.name, step.outcome), None, refusal), step
        attempt = self.host.attempt(operation)
        other = attempt.difference
        is_other = other is not None and other.what == "answer"
        answer = other.seen if other is not None and is_other else attempt.step.outcome
        byte = attempt.answer if isinstance(attempt.answer, int) else None
        return Followed(Answer(self.name, answer), byte, refusal, other), attempt.step

    def _scene(self, title: str, finding: str = "") -> Scene:
        scene = scene_of(self._system, self._state, title, finding=finding)
        return scene if self.host is None else replace(scene, seen=self.host.seen())

    # The model's state, as a stage is observed

    def held(self) -> tuple[str, ...]:
        """The process's descriptors and mappings, one for each."""
        names = []
        for kind, places, cell in (
            ("vm", self._layout.vm, VM_HANDLES),
            ("file", self._layout.file, FILE_HANDLES),
            ("mapping", self._layout.file, self._layout.mappings),
        ):
            for number, at in enumerate(places):
                names += [f"{kind} {number}"] * self._state[at + cell]
        return tuple(sorted(names))

    def bound(self) -> tuple[tuple[int, int, int], ...]:
        """Bindings as (file, VM, slot), ascending."""
        found = []
        for file, at in enumerate(self._layout.file):
            for page in range(self._system.universe.pages):
                slot = self._state[at + self._layout.bindings + page] - 1
                if slot >= 0:
                    vm = self._state[self._layout.slot[slot] + SLOT_VM] - 1
                    found.append((file, vm, slot))
        return tuple(sorted(found))

    def objects(self) -> tuple[tuple[str, bool], ...]:
        """Each VM and inode, and whether it exists."""
        vms = [(f"vm {v}", bool(self._state[at])) for v, at in enumerate(self._layout.vm)]
        inodes = enumerate(self._layout.inode)
        return (*vms, *((f"inode {i}", bool(self._state[at + INODE_FILES])) for i, at in inodes))

    def alive(self) -> tuple[tuple[str, bool | None], ...]:
        """Those that there have ever been, and whether they exist."""
        return tuple(one for one in self.objects() if one[0] in self._existed)


def difference_line(other: Difference) -> str:
    """A difference in a sentence."""
    expected, seen = other.expected, other.seen
    return f"kernel and model differ, {other.what}: the model has {expected}, the kernel {seen}"
