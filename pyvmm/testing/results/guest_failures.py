# SPDX-License-Identifier: MIT
"""Failed assertions that a guest tells of in its diagnostics: file, line, expression, values. Pure.

Two forms are understood: that of guest/lib/assertions.c, and that of KUnit
(linux, lib/kunit/assert.c and test.c: ``# NAME: EXPECTATION FAILED at FILE:LINE``, then lines that
are indented).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_OURS = re.compile(r"# (?P<case>.+?): FAILED at (?P<file>.+?):(?P<line>\d{1,9}): (?P<text>.*)$")
_VALUE = re.compile(r"#   (left|right): (.*)$")
_KUNIT = re.compile(
    r"\s*# (?P<case>.+?): (?P<kind>EXPECTATION|ASSERTION) FAILED"
    r" at (?P<file>.+?):(?P<line>\d{1,9})$"
)
_INDENTED = re.compile(r"\s+\S")


@dataclass(frozen=True, slots=True)
class GuestFailure:
    """One failed assertion of a case; `values` are (name, value), as the guest printed them."""

    case: str
    file: str
    line: int
    expression: str
    values: tuple[tuple[str, str], ...] = ()

    def describe(self) -> tuple[str, ...]:
        """Lines as pytest shows an assertion: the expression, then the values."""
        named = [f"{name}: {value}" if name else value for name, value in self.values]
        return (self.expression, *(f"  {each}" for each in named))


def find_failures(lines: Sequence[str]) -> tuple[GuestFailure, ...]:
    """Find the failed assertions in output of a guest, in their order."""
    return tuple(_find(lines))


def _find(lines: Sequence[str]) -> Iterator[GuestFailure]:
    for at, line in enumerate(lines):
        match = _OURS.match(line)
        if match:
            yield GuestFailure(
                match["case"],
                match["file"],
                int(match["line"]),
                match["text"],
                tuple(_values(lines[at + 1 : at + 3])),
            )
            continue
        match = _KUNIT.match(line)
        if match:
            said = _kunit_message(lines[at + 1 :])
            text = said[0] if said else f"{match['kind'].lower()} failed"
            values = tuple(("", each) for each in said[1:])
            yield GuestFailure(match["case"], match["file"], int(match["line"]), text, values)


def _values(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line, wanted in zip(lines, ("left", "right"), strict=False):
        match = _VALUE.match(line)
        if match is None or match[1] != wanted:
            return
        yield wanted, match[2]


def _kunit_message(lines: Sequence[str]) -> list[str]:
    """Lines of the message: indented, and no comments; ten at the most."""
    said: list[str] = []
    for line in lines[:10]:
        if line.lstrip().startswith("#") or not _INDENTED.match(line):
            break
        said.append(line.strip())
    return said
