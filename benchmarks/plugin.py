# SPDX-License-Identifier: MIT
"""What the plugin adds to a pytest run that boots nothing: whole processes, with it and without."""

from __future__ import annotations

import os
import statistics
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import baselines
from benchmarks.figures import Sample, column
from benchmarks.launching import environment, launched
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

NAME = "plugin"
TITLE = "a pytest run that boots nothing, with the plugin and without"
RUNS = 25

MOST_MS = 10.0
_TEST = "def test_nothing() -> None:\n    pass\n"
_EMPTY = "nothing_at_all"
"""A plugin that does nothing: `-p` has pytest read what all distributions here declare, as a run
that loads plugins by itself does once, with this one or without."""


def run(effort: Effort, step: Step) -> Result:
    """Measure both; what counts is the median of the differences within a round."""
    with tempfile.TemporaryDirectory(prefix="pyvmm-plugin-") as name:
        folder = Path(name)
        (folder / "test_nothing.py").write_text(_TEST, encoding="utf-8")
        (folder / f"{_EMPTY}.py").write_text("", encoding="utf-8")
        subjects = (
            Subject("without", "pytest, and an empty plugin", partial(_sample, folder, _EMPTY)),
            Subject(
                "with",
                "pytest, and the plugin that its entry point names",
                partial(_sample, folder, "pyvmm.testing.plugin"),
            ),
        )
        samples = take_turns(subjects, effort, step)
    result = Result(NAME, TITLE, subjects, samples, [Comparison("wall_ms", "with", "without")])
    wall, cpu = (_adds(samples, figure) for figure in ("wall_ms", "cpu_ms"))
    met = "met" if wall <= MOST_MS else "MISSED"
    rows = (
        ("the plugin adds", f"{wall:.1f} ms", f"target <= {MOST_MS:g} ms: {met}"),
        ("of processor time", f"{cpu:.1f} ms", "for information"),
    )
    result.tables.append(Table("medians of the differences within a round", rows))
    return result


def _adds(samples: dict[str, list[Sample]], figure: str) -> float:
    """The median of what one has more than the other within a round."""
    more, less = (column(samples[name], figure) for name in ("with", "without"))
    return statistics.median([one - other for one, other in zip(more, less, strict=True)])


def _sample(folder: Path, plugin: str) -> Sample:
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", plugin, "-c", os.devnull]
    answer = launched(
        [*baselines.PYTHON, *arguments, str(folder / "test_nothing.py")],
        folder / "said",
        # Without all that is installed beside it: their imports take a hundred times as long.
        environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(folder)},
    )
    if answer["status"]:
        raise CannotRunError(f"pytest ended with {answer['status']:.0f}")
    return {
        "wall_ms": (answer["ended"] - answer["started"]) * 1e3,
        "cpu_ms": (answer["user"] + answer["system"]) * 1e3,
    }
