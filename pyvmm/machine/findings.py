# SPDX-License-Identifier: MIT
"""Findings about a host, and what follows of them for its user."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Verdict(enum.Enum):
    """Bearing of a finding on pyvmm."""

    HAS = "has"
    PARTLY = "partly"
    LACKS = "lacks"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing asked: what, how the host answered, and what that means."""

    what: str
    verdict: Verdict
    answer: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Consequence:
    """Consequence for one use of pyvmm."""

    use: str
    verdict: Verdict
    because: str


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything found out about a host."""

    host: str
    findings: tuple[Finding, ...]
    consequences: tuple[Consequence, ...]

    @property
    def can_run(self) -> bool:
        """True if ``pyvmm run`` works here."""
        return self.consequences[0].verdict is not Verdict.LACKS
