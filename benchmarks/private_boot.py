# SPDX-License-Identifier: MIT
"""A private boot next to a shared boot of the same guest, as whole commands in one lab."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks import in_lab
from benchmarks.figures import Sample
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step, Subject, take_turns
from pyvmm import bundled_guests

NAME = "private_boot"
TITLE = "`pyvmm run --host lab hello`, private and shared, in one lab that is up"
RUNS = 9

_GREETING = b"Hello from a pyvmm guest"
_COMMAND = ("run", "--host", "lab", "hello")
_FIGURES = ("wall_ms", "guest_ms", "around_ms")


def run(effort: Effort, step: Step) -> Result:
    """Measure both in one lab."""
    if bundled_guests.find("hello") is None:
        raise CannotRunError("the bundled guests are not built; run make guests")
    with in_lab.lab_up() as env:
        subjects = [
            _subject("shared", _COMMAND, env),
            _subject("private", (*_COMMAND, "--private"), env),
        ]
        samples = take_turns(subjects, effort, step)
    comparisons = [Comparison(figure, "private", "shared") for figure in _FIGURES]
    return Result(NAME, TITLE, subjects, samples, comparisons)


def _subject(name: str, words: Sequence[str], env: Mapping[str, str]) -> Subject:
    return Subject(name, f"pyvmm {' '.join(words)}", partial(_sample, words, env))


def _sample(words: Sequence[str], env: Mapping[str, str]) -> Sample:
    """One run: all of it, from the first instruction to the end, and what is around that."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "result.json"
        started = time.perf_counter()
        said = in_lab.must([in_lab.PYVMM, *words, "--json", str(told)], env)
        wall = (time.perf_counter() - started) * 1e3
        result = json.loads(told.read_text(encoding="utf-8"))
    if not said.startswith(_GREETING):
        raise CannotRunError(f"pyvmm {' '.join(words)} said {said[:60]!r}")
    guest = float(result["seconds"]) * 1e3
    return dict(zip(_FIGURES, (wall, guest, wall - guest), strict=True))
