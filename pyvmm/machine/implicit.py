# SPDX-License-Identifier: MIT
"""Conversions that the guest did not announce: what the policy is asked, and a refusal's report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyvmm.memory.conversion import Side
from pyvmm.memory.page_map import page_map
from pyvmm.memory.page_states import PageRun, PageState


@dataclass(frozen=True, slots=True)
class ImplicitConversion:
    """A conversion that the guest did not announce: it touched [gpa, gpa + size), in bytes."""

    gpa: int
    size: int
    state: PageState
    to: Side
    vcpu: int


@dataclass(frozen=True, slots=True)
class FaultRefused:
    """A guest access that nothing satisfies: why, and the pages around it as they are."""

    gpa: int
    size: int
    private_access: bool
    cause: str
    runs: tuple[PageRun, ...]

    def lines(self) -> Iterator[str]:
        """The report as text: page, access, page map."""
        kind = "private" if self.private_access else "shared"
        yield f"refused access: {kind}, gpa {self.gpa:#x}, {self.size} bytes: {self.cause}"
        yield "  page map:"
        yield from (f"    {line}" for line in page_map(self.runs, self.gpa))

    def to_json(self) -> dict[str, object]:
        """The same as plain values."""
        return {
            "gpa": self.gpa,
            "size": self.size,
            "access": "private" if self.private_access else "shared",
            "cause": self.cause,
            "page_map": [
                {"start": run.range.start, "end": run.range.end, "state": run.state.value}
                for run in self.runs
            ],
        }
