# SPDX-License-Identifier: MIT
"""How much memory a private guest takes, next to the pages that it has in use.

A guest uses every page of its data, on the one side and on the other. A monitor that did not give
the side back that a conversion leaves would end up with twice the memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import baselines, conversions_pyvmm, in_lab
from benchmarks.conversion_cells import DATA_GPA, Cell, Kind
from benchmarks.conversions_pyvmm import Guest
from benchmarks.figures import Sample, at_most
from benchmarks.measure import CannotRunError, Comparison, Effort, Result, Step
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB
from pyvmm.memory.page_states import PageState
from pyvmm.rules.abi import PAGE_SIZE

NAME = "private_memory"
TITLE = "resident memory next to the pages in use, in the lab"
RUNS = 3

RANGES = 256
"""How many ranges of 2 MiB the guest converts: half a gibibyte of data."""

_WHAT = {
    "pages in use": "what the guest has touched on the side where the page states say it is",
    "resident": "both sides, asked of the kernel: mincore of the mapping, cachestat of guest_memfd",
    "machine": "what the whole machine has less of free memory: page tables and all else",
}
_FIGURES = ("private_mib", "shared_mib", "private_again_mib", "half_private_mib")


def run(effort: Effort, step: Step) -> Result:
    """Measure in one lab."""
    guest = baselines.assembled("conversions_guest")
    arguments = [guest, effort.runs, effort.scaled(RANGES)]
    answer = in_lab.measured_inside("benchmarks.private_memory", arguments, step)
    subjects = [in_lab.told(name, what) for name, what in _WHAT.items()]
    comparisons = [
        Comparison(figure, name, "pages in use", at_most(1.05))
        for name in ("resident", "machine")
        for figure in _FIGURES
    ]
    return in_lab.take_in(Result(NAME, TITLE, subjects, {}, comparisons), answer)


def main() -> None:
    """``python -m benchmarks.private_memory GUEST RUNS RANGES``: the part that runs in the lab."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.private_memory")
    parser.add_argument("guest", type=Path)
    parser.add_argument("runs", type=int)
    parser.add_argument("ranges", type=int)
    options = parser.parse_args()
    code = options.guest.read_bytes()
    samples: dict[str, list[Sample]] = {name: [] for name in _WHAT}
    for number in range(options.runs + 1):
        in_lab.say_step("converting", number, options.runs + 1)
        found = _measured(code, options.ranges)
        if number:
            for name in _WHAT:
                samples[name].append({figure: found[figure][name] for figure in _FIGURES})
    in_lab.tell(samples)


def _measured(code: bytes, ranges: int) -> dict[str, Sample]:
    """One guest's life: figures by moment."""
    cell = Cell(Kind.SWEEPS, 2 * MIB, ranges, touch=PAGE_SIZE)
    found: dict[str, Sample] = {}
    with conversions_pyvmm.guest(code, cell, fast=True) as guest:
        guest.stretch()
        before = _free()
        for figure, side in zip(
            _FIGURES[:3], (PageState.PRIVATE, PageState.SHARED) * 2, strict=False
        ):
            guest.stretch()
            guest.stretch()
            found[figure] = _moment(guest, side, before)
        # The host takes the first half: what was there is gone, and nobody has touched it since.
        half = cell.data_size // 2 & -PAGE_SIZE
        guest.memory.conversion.convert(DATA_GPA, half, Side.SHARED)
        found[_FIGURES[3]] = _moment(guest, PageState.PRIVATE, before)
    return found


def _moment(guest: Guest, side: PageState, before: int) -> Sample:
    """In MiB. The data are in use on `side`; of what holds the code, shared, one page is."""
    in_use = PAGE_SIZE + sum(
        run.range.size
        for run in guest.memory.states.runs()
        if run.state is side and run.range.start >= DATA_GPA
    )
    resident = sum(
        one.shared_resident + one.private_resident for one in guest.memory.states.residency()
    )
    return {
        "pages in use": in_use / MIB,
        "resident": resident / MIB,
        "machine": (before - _free()) / MIB,
    }


def _free() -> int:
    """Bytes of the machine that nobody uses, once it has dropped what it could read again.

    Linux does not count the free pages that each processor keeps at hand (tens of MiB) into
    MemFree.
    """
    Path("/proc/sys/vm/drop_caches").write_text("3\n", encoding="ascii")
    at_hand = sum(
        int(line.split()[1])
        for line in Path("/proc/zoneinfo").read_text(encoding="ascii").splitlines()
        if line.split()[0] == "count:"
    )
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemFree":
            return int(rest.split()[0]) * 1024 + at_hand * PAGE_SIZE
    raise CannotRunError("/proc/meminfo has no MemFree")


if __name__ == "__main__":
    main()
