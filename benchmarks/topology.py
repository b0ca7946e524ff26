# SPDX-License-Identifier: MIT
"""Topology: namespaces with a tap each, up and down, against a script of iproute2's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from benchmarks.figures import Sample
from benchmarks.measure import (
    CannotRunError,
    Comparison,
    Effort,
    Result,
    Step,
    Subject,
    Table,
    take_turns,
)

NAME = "topology"
TITLE = "pyvmm net up and down: 100 network namespaces with a tap each, as whole processes"
RUNS = 5

COUNT = 100
LIMITS = {"up_ms": 3000.0, "down_ms": 2000.0}
"""Milliseconds that 100 of them may take."""


def run(effort: Effort, step: Step) -> Result:
    """Measure both ways."""
    count = effort.scaled(COUNT)
    subjects = [
        Subject("pyvmm", "pyvmm net up FILE, pyvmm net down NAME", lambda: _sample("pyvmm", count))
    ]
    comparisons = []
    if shutil.which("ip"):
        what = "ip -batch for namespaces, a process for each tap"
        subjects.append(Subject("ip", what, lambda: _sample("ip", count)))
        comparisons = [Comparison(figure, "pyvmm", "ip") for figure in LIMITS]
    result = Result(NAME, TITLE, subjects, take_turns(subjects, effort, step), comparisons)
    result.tables.append(Table(f"times of {count} namespaces and {count} taps", _rows(result)))
    return result


def _rows(result: Result) -> tuple[tuple[str, str, str], ...]:
    rows = []
    for figure, limit in LIMITS.items():
        median = result.spread("pyvmm", figure).median
        is_met = "met" if median <= limit else "MISSED"
        remark = f"100 may take {limit / 1e3:g} s: {is_met}"
        rows.append((figure.removesuffix("_ms"), f"{median / 1e3:.2f} s", remark))
    return tuple(rows)


def _sample(way: str, count: int) -> Sample:
    words = [sys.executable, "-m", "benchmarks.topology_inside", way, str(count)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise CannotRunError(lines[-1] if lines else f"it ended with {done.returncode}")
    return dict(json.loads(done.stdout))
