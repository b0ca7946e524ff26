"""Commands in the lab: what booting one costs, and what a command costs in one that is up."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

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
from pyvmm.errors import PyvmmError

NAME = "lab"
TITLE = "commands in the lab: cold, and in one that is up"
RUNS = 5

_PRELOAD_PATIENCE = 120.0
_TARGETS = {"cold true": 3.0, "true": 0.3, "doctor": 1.0}
"""Seconds of wall time, at most."""


def run(effort: Effort, step: Step) -> Result:
    """Measure in labs of our own, whatever the user has up."""
    from pyvmm.lab.settings import find_kernel

    program = Path(sys.executable).parent / "pyvmm"
    try:
        find_kernel(None)
    except PyvmmError as error:
        raise CannotRunError(str(error)) from error
    pyvmm = str(program)
    with tempfile.TemporaryDirectory() as cold, tempfile.TemporaryDirectory() as up:
        here, there = _environment(cold), _environment(up)
        _must([pyvmm, "lab", "up"], there)
        try:
            _wait_until_preloaded(pyvmm, there)
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
            _must([pyvmm, "lab", "down"], there)
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


def _environment(directory: str) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": directory}


def _subject(name: str, command: Sequence[str], environment: Mapping[str, str]) -> Subject:
    def sample() -> Sample:
        begun = time.perf_counter()
        _must(command, environment)
        return {"wall_ms": (time.perf_counter() - begun) * 1e3}

    return Subject(name, " ".join(command), sample)


def _must(command: Sequence[str], environment: Mapping[str, str]) -> bytes:
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode != 0:
        raise CannotRunError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr!r}")
    return done.stdout


def _wait_until_preloaded(pyvmm: str, environment: Mapping[str, str]) -> None:
    deadline = time.monotonic() + _PRELOAD_PATIENCE
    while b"preloaded: ready" not in _must([pyvmm, "lab", "status"], environment):
        if time.monotonic() > deadline:
            raise CannotRunError("the lab does not get pyvmm loaded")
        time.sleep(0.2)
