# SPDX-License-Identifier: MIT
"""Differences between two examinations of hosts, of which one comes from a file.

A file is what ``pyvmm doctor --json`` wrote, here or elsewhere, of this version or another: what
one of the two does not speak of is a difference, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pyvmm.errors import UsageError
from pyvmm.machine.kernel_matrix import Attempt, answer
from pyvmm.typed_values import UnfitValueError, no_number

NOT_THERE = "(not examined)"
"""Answer to what one of the two does not speak of."""
_CREATE, _YES = Attempt.CREATE.value, answer(0)
_REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Difference:
    """One answer that is not the same: `there` is that of the file, `here` that of this host."""

    what: str
    there: str
    here: str

    def to_json(self) -> dict[str, str]:
        """The same as plain values."""
        return {"what": self.what, "there": self.there, "here": self.here}


@dataclass(frozen=True, slots=True)
class Cell:
    """Place in the matrix: an attempt on a kind of file."""

    vm_type: str
    flags: str
    attempt: str

    def __str__(self) -> str:
        return f"{self.vm_type} guest_memfd, flags {self.flags}: {self.attempt}"


@dataclass(frozen=True, slots=True)
class Answers:
    """An examination as answers by what they are about, in the order in which they are shown.

    `vm_types` are empty where no matrix was tried; `cells` are those that were.
    """

    host: str
    findings: Mapping[str, str]
    vm_types: Mapping[str, str]
    cells: Mapping[Cell, str]
    consequences: Mapping[str, str]


def read_answers(content: bytes, name: str) -> Answers:
    """Answers of a file, which is called `name`.

    Raises `UsageError` for content that ``pyvmm doctor --json`` did not write.
    """
    try:
        return answers_of(json.loads(content, parse_constant=no_number))
    except (ValueError, RecursionError, UnfitValueError) as error:
        raise UsageError(
            f"compare with {name!r}",
            f"it is nothing that pyvmm doctor --json wrote ({error})",
            "write one with pyvmm doctor --json > FILE",
        ) from error


def answers_of(examination: object) -> Answers:
    """Answers of an examination that JSON has. Raises `UnfitValueError` for anything else."""
    whole = _object(examination, "it")
    findings: dict[str, str] = {}
    for finding in _objects(whole, "findings"):
        # A figure that was measured is another one each time, on one host as well.
        told = "verdict" if finding.get("measured") else "answer"
        findings[_text(finding, "what")] = _text(finding, told)
    vm_types: Mapping[str, str] = {}
    cells: dict[Cell, str] = {}
    if whole.get("matrix") is not None:
        matrix = _object(whole["matrix"], "matrix")
        types = _object(matrix.get("vm_types"), "vm_types")
        vm_types = {name: _text(types, name) for name in types}
        cells = dict(_cells(matrix))
    consequences = {
        _text(one, "use"): f"{_text(one, 'verdict')}: {_text(one, 'because')}"
        for one in _objects(whole, "consequences")
    }
    return Answers(_text(whole, "host"), findings, vm_types, cells, consequences)


def _cells(matrix: Mapping[str, object]) -> Iterator[tuple[Cell, str]]:
    for row in _objects(matrix, "files"):
        tried = _object(row.get("tried"), "tried")
        for attempt, cell in tried.items():
            if cell is not None:
                vm_type, flags = _text(row, "vm_type"), _text(row, "flag_names")
                yield Cell(vm_type, flags, attempt), _text(tried, attempt)


def differences(there: Answers, here: Answers) -> tuple[Difference, ...]:
    """Everything that the two answer differently, in the order of `here`, then of `there`."""
    return (
        *_unlike(there.findings, here.findings),
        *_unlike(
            {f"VM of type {name}": told for name, told in there.vm_types.items()},
            {f"VM of type {name}": told for name, told in here.vm_types.items()},
        ),
        *_unlike_cells(there, here),
        *_unlike(there.consequences, here.consequences),
    )


def _unlike(there: Mapping[str, str], here: Mapping[str, str]) -> Iterator[Difference]:
    for what in {**here, **there}:
        if there.get(what) != here.get(what):
            yield Difference(what, there.get(what, NOT_THERE), here.get(what, NOT_THERE))


def _unlike_cells(there: Answers, here: Answers) -> Iterator[Difference]:
    """Differences in the matrix, less those that follow from one before them.

    Where one host has no such VM, or makes no such file, nothing more was tried on it there.
    """
    for cell in {**here.cells, **there.cells}:
        one, other = there.cells.get(cell), here.cells.get(cell)
        if one == other:
            continue
        if one is not None and other is not None:
            yield Difference(str(cell), one, other)
        elif cell.attempt == _CREATE and all(
            one.vm_types.get(cell.vm_type) == _YES for one in (there, here)
        ):
            # Of flags without a name there is a row where they are accepted.
            yield Difference(str(cell), one or _REFUSED, other or _REFUSED)


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise UnfitValueError(f"{what} is no object")
    return value


def _objects(whole: Mapping[str, object], key: str) -> Iterator[Mapping[str, object]]:
    listed = whole.get(key)
    if not isinstance(listed, list):
        raise UnfitValueError(f"{key} is no list")
    return (_object(one, f"a value of {key}") for one in listed)


def _text(whole: Mapping[str, object], key: str) -> str:
    value = whole.get(key)
    if not isinstance(value, str):
        raise UnfitValueError(f"{key} is no text")
    return value
