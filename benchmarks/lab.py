# SPDX-License-Identifier: MIT
"""Commands in the lab: what booting one costs, and what a command costs in one that is up."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence

from benchmarks import in_lab
from benchmarks.figures import Sample
from benchmarks.measure import (
    Comparison,
    Effort,
    Result,
    Step,
    Subject,
    Table,
    take_turns,
)

NAME = "lab"
TITLE = "commands in the lab: cold, and in one that is up"
RUNS = 5

_TARGETS = {"cold true": 3.0, "true": 0.3, "doctor": 1.0}
"""Seconds of wall time, at most."""


def run(effort: Effort, step: Step) -> Result:
    """Measure in labs of our own, whatever the user has up."""
    in_lab.require_kernel()
    pyvmm = in_lab.PYVMM
    with tempfile.TemporaryDirectory() as cold, tempfile.TemporaryDirectory() as up:
        here, there = in_lab.environment(cold), in_lab.environment(up)
        in_lab.must([pyvmm, "lab", "up"], there)
        try:
            in_lab.wait_until_preloaded(there)
            inside = [pyvmm, "lab", "run", "--"]
            subjects = [
                _subject("native true", ["true"], here),
                _subject("cold true", [*inside, "true"], here),
                _subject("true", [*inside, "true"], there),
                _subject("native doctor", [pyvmm, "doctor"], here),
                _subject("doctor", [*inside, pyvmm, "doctor"], there),
            ]
            samples = take_turns(subjects, effort, step)
        finally:
            in_lab.must([pyvmm, "lab", "down"], there)
    comparisons = [
        Comparison("wall_ms", "cold true", "true"),
        Comparison("wall_ms", "doctor", "native doctor"),
    ]
    result = Result(NAME, TITLE, subjects, samples, comparisons)
    result.tables.append(_targets(result))
    return result


def _targets(result: Result) -> Table:
    rows = []
    for name, limit in _TARGETS.items():
        median = result.spread(name, "wall_ms").median / 1e3
        word = "met" if median <= limit else "missed"
        rows.append((name, f"{median:.2f} s", f"target <= {limit:g} s: {word}"))
    return Table("targets of wall time", tuple(rows))


def _subject(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Subject:
    def sample() -> Sample:
        begun = time.perf_counter()
        in_lab.must(command, environment)
        return {"wall_ms": (time.perf_counter() - begun) * 1e3}

    return Subject(name, " ".join(command), sample)
