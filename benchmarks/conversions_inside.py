# SPDX-License-Identifier: MIT
"""The conversion benchmark's part that runs in the lab: both sides, taking turns."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import baselines, conversion_cells, conversions_pyvmm, in_lab, system_calls
from benchmarks.conversion_cells import Cell, Kind, sizes
from benchmarks.figures import Sample
from benchmarks.measure import Effort, Subject, Table, take_turns
from pyvmm.rules.abi import PAGE_SIZE

Measure = Callable[[Cell], dict[str, float]]

_FEW, _MANY = 2, 7
"""Ranges converted where system calls are counted."""
_COUNTED = {
    Kind.SWEEPS: "explicit, there and back",
    Kind.TO_SHARED: "implicit to shared",
    Kind.TO_PRIVATE: "implicit to private, and the memslot taken away again",
}


def main() -> None:
    """``python -m benchmarks.conversions_inside C GUEST RUNS SCALE``: the answer as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conversions_inside")
    parser.add_argument("program", type=Path)
    parser.add_argument("guest", type=Path)
    parser.add_argument("runs", type=int)
    parser.add_argument("scale", type=float)
    options = parser.parse_args()
    code = options.guest.read_bytes()
    by_python: Counter[str] = Counter()

    def c(cell: Cell) -> dict[str, float]:
        return baselines.called(options.program, *_arguments(options.guest, cell))

    def pyvmm(cell: Cell) -> dict[str, float]:
        answer = conversions_pyvmm.measured(code, cell, fast=True)
        by_python[cell.kind.value] += int(answer["to_python"])
        by_python[f"all {cell.kind.value}"] += _conversions(cell)
        return answer

    def held(cell: Cell) -> dict[str, float]:
        return conversions_pyvmm.measured(code, cell, fast=True, held=True)

    def python(cell: Cell) -> dict[str, float]:
        return conversions_pyvmm.measured(code, cell, fast=False)

    measures = {"C": c, "pyvmm": pyvmm, "held": held, "Python": python}
    turns = list(_turns(measures, options.scale))
    if (size := conversion_cells.size_beside_onlooker(options.scale)) is not None:
        turns.append(_onlooker(code, Cell(Kind.SWEEPS, size, 1)))
    # Cell by cell: the sides of a pair are then measured within a second of each other.
    taken = take_turns(
        [turn.subject for turn in turns], Effort(options.runs, options.scale), in_lab.say_step
    )
    samples: dict[str, list[Sample]] = {}
    for turn in turns:
        rounds = samples.setdefault(turn.side, [{} for _ in range(options.runs)])
        for number, sample in enumerate(taken[turn.subject.name]):
            rounds[number] = {**rounds[number], **sample}
    tables = [_left_to_python(by_python), _calls(options.program, options.guest, code)]
    in_lab.tell(samples, tables)


def _arguments(guest: Path, cell: Cell) -> list[str]:
    numbers = (cell.size, cell.count, cell.sweeps, cell.touch)
    return [str(guest), cell.kind.value, *(str(number) for number in numbers)]


def _conversions(cell: Cell) -> int:
    return cell.count * cell.sweeps * (1 if cell.kind.by_touch else 2)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One cell of one side, as in "pyvmm, 4 KiB"."""

    side: str
    subject: Subject


def _turns(measures: Mapping[str, Measure], scale: float) -> Iterator[_Turn]:
    for label, size in sizes(scale).items():
        fewer = {
            name: {cell.what: cell for cell in of(size, scale)}
            for name, of in (
                ("Python", conversion_cells.cells_of_python),
                ("held", conversion_cells.cells_of_held),
            )
        }
        for cell in conversion_cells.cells(size, scale):
            for name, measure in measures.items():
                its = fewer[name].get(cell.what) if name in fewer else cell
                if its is not None:
                    side = f"{name}, {label}"
                    yield _Turn(side, _subject(f"{side}: {its.what}", measure, its))


def _onlooker(code: bytes, cell: Cell) -> _Turn:
    def sample() -> Sample:
        return {"longest_wait_ms": conversions_pyvmm.longest_wait(code, cell) * 1e3}

    return _Turn(conversion_cells.ONLOOKER, Subject(conversion_cells.ONLOOKER, "", sample))


def _subject(name: str, measure: Measure, cell: Cell) -> Subject:
    def sample() -> Sample:
        seconds = measure(cell)
        return cell.figures(seconds["to_private"], seconds["to_shared"])

    return Subject(name, "", sample)


def _left_to_python(counted: Counter[str]) -> Table:
    rows = [
        (kind.value, f"{counted[kind.value]:,}", f"of {counted[f'all {kind.value}']:,}")
        for kind in Kind
    ]
    return Table("conversions that pyvmm's fast path left to Python", tuple(rows))


def _calls(program: Path, guest: Path, code: bytes) -> Table:
    """System calls per conversion: the difference between many and few ranges."""

    def c(cell: Cell) -> Counter[str] | None:
        return system_calls.of_process([str(program), *_arguments(guest, cell)], {})

    def pyvmm(cell: Cell) -> Counter[str] | None:
        return system_calls.of_call(partial(conversions_pyvmm.measured, code, cell, fast=True))

    title = "system calls per conversion of 4 KiB, by strace"
    rows = []
    for kind, what in _COUNTED.items():
        for name, counted in (("C", c), ("pyvmm", pyvmm)):
            few, many = (
                counted(Cell(kind, PAGE_SIZE, count, touch=PAGE_SIZE)) for count in (_FEW, _MANY)
            )
            if few is None or many is None:
                return Table(f"{title}: not counted, strace does not work in the lab", ())
            done = (_MANY - _FEW) * (1 if kind.by_touch else 2)
            each = {call: (many[call] - few[call]) / done for call in many | few}
            remark = ", ".join(
                f"{call} {each[call]:.3g}"
                for call in sorted(each, key=lambda one: -each[one])
                if each[call]
            )
            rows.append((f"{what}: {name}", f"{sum(each.values()):.3g}", remark))
    return Table(title, tuple(rows))


if __name__ == "__main__":
    main()
