# SPDX-License-Identifier: MIT
"""The part of the benchmark of conversions in place that runs in the lab: both, taking turns."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from benchmarks import baselines, conversions_pyvmm, in_lab
from benchmarks.conversion_cells import Cell, cells_in_place
from benchmarks.conversions_in_place import labels
from benchmarks.figures import Sample
from benchmarks.measure import Effort, Subject, Table, take_turns

Measure = Callable[[Cell], dict[str, float]]


def main() -> None:
    """``python -m benchmarks.conversions_in_place_inside C GUEST RUNS SCALE``: JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversions_in_place_inside")
    parser.add_argument("program", type=Path)
    parser.add_argument("guest", type=Path)
    parser.add_argument("runs", type=int)
    parser.add_argument("scale", type=float)
    options = parser.parse_args()
    code = options.guest.read_bytes()
    left = {"conversions": 0, "to_python": 0}

    def c(cell: Cell) -> dict[str, float]:
        numbers = (cell.size, cell.count, cell.sweeps, cell.touch)
        arguments = [str(options.guest), cell.kind.value, *map(str, numbers), "in-place"]
        return baselines.called(options.program, *arguments)

    def pyvmm(cell: Cell) -> dict[str, float]:
        answer = conversions_pyvmm.measured(code, cell, fast=True, in_place=True)
        left["to_python"] += int(answer["to_python"])
        left["conversions"] += 2 * cell.count * cell.sweeps
        return answer

    turns = [
        (f"{name}, {label}", _subject(f"{name}, {label}: {cell.what}", measure, cell))
        for label, size in labels(options.scale).items()
        for cell in cells_in_place(size, options.scale)
        for name, measure in (("C", c), ("pyvmm", pyvmm))
    ]
    # Cell by cell: the sides of a pair are then measured within a second of each other.
    taken = take_turns(
        [subject for _, subject in turns], Effort(options.runs, options.scale), in_lab.say_step
    )
    samples: dict[str, list[Sample]] = {}
    for side, subject in turns:
        rounds = samples.setdefault(side, [{} for _ in range(options.runs)])
        for number, sample in enumerate(taken[subject.name]):
            rounds[number] = {**rounds[number], **sample}
    row = ("all", f"{left['to_python']:,}", f"of {left['conversions']:,}")
    in_lab.tell(samples, [Table("conversions that pyvmm's fast path left to Python", (row,))])


def _subject(name: str, measure: Measure, cell: Cell) -> Subject:
    def sample() -> Sample:
        seconds = measure(cell)
        return cell.figures(seconds["to_private"], seconds["to_shared"])

    return Subject(name, "", sample)


if __name__ == "__main__":
    main()
