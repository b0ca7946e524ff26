# SPDX-License-Identifier: MIT
"""Conversions: how many per second, next to a C program that makes the same system calls."""

from __future__ import annotations

from benchmarks import baselines, conversion_cells, in_lab
from benchmarks.conversion_cells import cells, cells_of_held, cells_of_python, sizes
from benchmarks.figures import at_least
from benchmarks.measure import Comparison, Effort, Result, Step
from pyvmm.rules.abi import PAGE_SIZE

NAME = "conversions"
TITLE = "pages converted between private and shared, per second, in the lab"
RUNS = 7

_WHAT = {
    "C": "attributes, then the discard, around KVM_RUN",
    "pyvmm": "GuestMemory over the host API, with the host's fast path",
    "held": "the same while a device listens, and another has a lease, elsewhere",
    "Python": "the same without the fast path: every conversion leaves for Python",
}


def run(effort: Effort, step: Step) -> Result:
    """Measure all subjects in one lab."""
    program = baselines.compiled("conversions")
    guest = baselines.assembled("conversions_guest")
    answer = in_lab.measured_inside(
        "benchmarks.conversions_inside", [program, guest, effort.runs, effort.scale], step
    )
    subjects = [
        in_lab.told(f"{name}, {label}", what)
        for label in sizes(effort.scale)
        for name, what in _WHAT.items()
        if name != "held" or cells_of_held(sizes()[label])
    ]
    if conversion_cells.size_beside_onlooker(effort.scale) is not None:
        what = "a thread that asks for a page's state while a guest converts 1 GiB at a time"
        subjects.append(in_lab.told(conversion_cells.ONLOOKER, what))
    return in_lab.take_in(Result(NAME, TITLE, subjects, {}, comparisons(effort.scale)), answer)


def comparisons(scale: float = 1.0) -> list[Comparison]:
    """Every rate of pyvmm has a target; those of the Python path have none."""
    found = []
    for label, size in sizes(scale).items():
        target = at_least(0.7 if size == PAGE_SIZE else 0.95)
        baseline = f"C, {label}"
        for cell in cells(size):
            figures = cell.figures(1.0, 1.0)
            found += [Comparison(one, f"pyvmm, {label}", baseline, target) for one in figures]
        for cell in cells_of_held(size):
            figures = cell.figures(1.0, 1.0)
            pair = f"held, {label}", f"pyvmm, {label}"
            found += [Comparison(one, *pair, at_least(0.95)) for one in figures]
        for cell in cells_of_python(size):
            figures = cell.figures(1.0, 1.0)
            found += [Comparison(one, f"Python, {label}", baseline) for one in figures]
    return found
