# SPDX-License-Identifier: MIT
"""A sequence of operations with their outcomes: readable, and a file that can be replayed."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.errors import UsageError
from pyvmm.lifetime.operations import Operation
from pyvmm.lifetime.universe import Universe

FORMAT = "pyvmm lifetime story 1"


@dataclass(frozen=True, slots=True)
class Told:
    """One step: the operation, its outcome ("ok", an errno's name, or what was read)."""

    operation: Operation
    outcome: str
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        outcome = "" if self.outcome == "ok" else f" -> {self.outcome}"
        return f"{self.operation}{outcome}" + "".join(f"  !! {each}" for each in self.faults)


@dataclass(frozen=True, slots=True)
class Story:
    """Shortest way of a design, over a universe, to `ending`.

    `about` is the property's name, "" for a story that shows none.
    """

    design: str
    universe: Universe
    about: str
    steps: tuple[Told, ...]
    ending: str

    def lines(self) -> list[str]:
        """One line a step, numbered, and the ending."""
        told = [f"{number:3}. {step}" for number, step in enumerate(self.steps, 1)]
        return [*told, f"     => {self.ending}"] if self.ending else told

    def to_json(self) -> dict[str, object]:
        """As a JSON object that `from_json` reads back."""
        u = self.universe
        return {
            "format": FORMAT,
            "design": self.design,
            "universe": {name: getattr(u, name) for name in u.__dataclass_fields__},
            "about": self.about,
            "steps": [
                {
                    "operation": step.operation.to_json(),
                    "outcome": step.outcome,
                    "faults": list(step.faults),
                }
                for step in self.steps
            ],
            "ending": self.ending,
        }

    @classmethod
    def from_json(cls, value: object) -> Story:
        """The reverse of `to_json`. Raises `UsageError` for anything else."""
        try:
            if not isinstance(value, dict) or value["format"] != FORMAT:
                raise ValueError("not of this format")
            steps = tuple(
                Told(
                    Operation.from_json(each["operation"]),
                    str(each["outcome"]),
                    tuple(str(fault) for fault in each["faults"]),
                )
                for each in value["steps"]
            )
            universe = Universe(**value["universe"])
        except (KeyError, TypeError, ValueError) as error:
            cause = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise UsageError("read a story", cause, "give a file that explore wrote") from error
        return cls(str(value["design"]), universe, str(value["about"]), steps, str(value["ending"]))
