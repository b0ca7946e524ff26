# SPDX-License-Identifier: MIT
"""Results of a comparison of the model with a kernel: of one operation, of a sequence, of many."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pyvmm.lifetime.operations import Operation
from pyvmm.lifetime.transitions import Step
from pyvmm.replay.hands import Answer


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference of the kernel from the model: `step` counts from 1; `what` was compared."""

    operations: tuple[Operation, ...]
    step: int
    what: str
    expected: str
    seen: str

    def lines(self) -> list[str]:
        """The sequence as a story, the step marked."""
        told = []
        for number, operation in enumerate(self.operations, 1):
            mark = ">>" if number == self.step else "  "
            told.append(f"{mark}{number:3}. {operation}")
            if number == self.step:
                told.append(f"       {self.what}: expected {self.expected}, seen {self.seen}")
        return told

    def to_json(self) -> dict[str, object]:
        """As a JSON object."""
        return {
            "operations": [operation.to_json() for operation in self.operations],
            "step": self.step,
            "what": self.what,
            "expected": self.expected,
            "seen": self.seen,
        }


@dataclass(frozen=True, slots=True)
class Attempt:
    """One operation carried out by kernel and model.

    `step` is the model's, `answer` the kernel's: "ok", an errno's name, or the byte that was read.
    """

    step: Step
    answer: Answer
    difference: Difference | None


@dataclass
class Tally:
    """Counts of what has been compared so far."""

    sequences: int = 0
    steps: int = 0
    lives: int = 0
    contents: int = 0
    foreign: int = 0
    """Steps that KVM refuses to a process that did not make the VM; the model lets it."""
    errors_mapped: int = 0
    """Reads of a page that was punched after an error, through a mapping that was there before."""
    by_address: int = 0
    """Bindings judged by the address of a freed VM, where the kernel's answer was the other one."""
    kinds: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.sequences + other.sequences,
            self.steps + other.steps,
            self.lives + other.lives,
            self.contents + other.contents,
            self.foreign + other.foreign,
            self.errors_mapped + other.errors_mapped,
            self.by_address + other.by_address,
            self.kinds + other.kinds,
        )
