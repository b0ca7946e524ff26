# SPDX-License-Identifier: MIT
"""Conversions in place: how many per second, next to a C program, on a kernel that has them."""

from __future__ import annotations

from benchmarks import baselines, in_lab
from benchmarks.conversion_cells import cells_in_place, sizes
from benchmarks.figures import at_least
from benchmarks.measure import Comparison, Effort, Result, Step
from pyvmm.memory.layout import GIB

NAME = "conversions_in_place"
TITLE = "pages converted in place, per second, in a lab with that kernel"
RUNS = 7
KERNEL = "in-place-conversion"
"""A kernel of ours: pyvmm lab build --with in-place-conversion."""

_WHAT = {
    "C": "KVM_SET_MEMORY_ATTRIBUTES2 of the guest_memfd, around KVM_RUN",
    "pyvmm": "GuestMemory over the host API, with the host's fast path",
}
_TARGET = at_least(0.9)


def labels(scale: float = 1.0) -> dict[str, int]:
    """Sizes of the ranges, by name: a page and a large page."""
    return {label: size for label, size in sizes(scale).items() if size < GIB}


def run(effort: Effort, step: Step) -> Result:
    """Measure both in one lab."""
    program = baselines.compiled("conversions")
    guest = baselines.assembled("conversions_guest")
    answer = in_lab.measured_inside(
        "benchmarks.conversions_in_place_inside",
        [program, guest, effort.runs, effort.scale],
        step,
        kernel=KERNEL,
    )
    subjects = [
        in_lab.told(f"{name}, {label}", what)
        for label in labels(effort.scale)
        for name, what in _WHAT.items()
    ]
    return in_lab.take_in(Result(NAME, TITLE, subjects, {}, comparisons(effort.scale)), answer)


def comparisons(scale: float = 1.0) -> list[Comparison]:
    """Every rate has a target."""
    return [
        Comparison(figure, f"pyvmm, {label}", f"C, {label}", _TARGET)
        for label, size in labels(scale).items()
        for cell in cells_in_place(size)
        for figure in cell.figures(1.0, 1.0)
    ]
