# SPDX-License-Identifier: MIT
"""Findings about a host, and what follows of them for its user."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.machine.kernel_matrix import KernelMatrix


class Verdict(enum.Enum):
    """Bearing of a finding on pyvmm."""

    HAS = "has"
    PARTLY = "partly"
    LACKS = "lacks"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing asked: what, how the host answered, and what that means.

    `measured`: the answer has a figure that differs from one time to the next.
    """

    what: str
    verdict: Verdict
    answer: str
    meaning: str
    measured: bool = False

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "what": self.what,
            "verdict": self.verdict.value,
            "answer": self.answer,
            "meaning": self.meaning,
            "measured": self.measured,
        }


@dataclass(frozen=True, slots=True)
class Consequence:
    """Consequence for one use of pyvmm."""

    use: str
    verdict: Verdict
    because: str

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {"use": self.use, "verdict": self.verdict.value, "because": self.because}


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything found out about a host; `matrix` is None where there is no KVM to try it on."""

    host: str
    findings: tuple[Finding, ...]
    consequences: tuple[Consequence, ...]
    matrix: KernelMatrix | None = None

    @property
    def can_run(self) -> bool:
        """True if ``pyvmm run`` works here."""
        return self.consequences[0].verdict is not Verdict.LACKS

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "host": self.host,
            "can_run": self.can_run,
            "findings": [finding.to_json() for finding in self.findings],
            "matrix": None if self.matrix is None else self.matrix.to_json(),
            "consequences": [consequence.to_json() for consequence in self.consequences],
        }
