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
from itertools import islice

MOST_FAILURES = 100
"""Failed assertions that are taken from one output, which may have any number of them."""
MOST_COLUMNS = 4096
"""Letters of a line that are looked at."""

# A guest chooses these lines: each pattern has one part of open length, and none is tried twice.
_FAILED_AT = ": FAILED at "
_PLACE = re.compile(r"(?P<file>.+?):(?P<line>\d{1,9}): (?P<text>.*)", re.ASCII)
_VALUE = re.compile(r"#   (left|right): (.*)$")
_KUNIT = re.compile(r": (?P<kind>EXPECTATION|ASSERTION) FAILED at ")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
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
    """Find the failed assertions in output of a guest, in their order; the first of very many."""
    return tuple(islice(_find(lines), MOST_FAILURES))


def _find(lines: Sequence[str]) -> Iterator[GuestFailure]:
    for at, whole in enumerate(lines):
        line = whole[:MOST_COLUMNS]
        failure = _ours(line, lines[at + 1 : at + 3]) or _kunit(line, lines[at + 1 : at + 11])
        if failure is not None:
            yield failure


def _ours(line: str, following: Sequence[str]) -> GuestFailure | None:
    case, is_there, place = line.partition(_FAILED_AT)
    match = _PLACE.fullmatch(place) if is_there and case.startswith("# ") else None
    if match is None or case == "# ":
        return None
    values = tuple(_values(following))
    return GuestFailure(case[2:], match["file"], int(match["line"]), match["text"], values)


def _kunit(line: str, following: Sequence[str]) -> GuestFailure | None:
    text = line.lstrip()
    match = _KUNIT.search(text, 3) if text.startswith("# ") else None
    if match is None:
        return None
    file, _, number = text[match.end() :].rpartition(":")
    if not file or not _NUMBER.fullmatch(number):
        return None
    said = _kunit_message(following)
    expression = said[0] if said else f"{match['kind'].lower()} failed"
    values = tuple(("", each) for each in said[1:])
    return GuestFailure(text[2 : match.start()], file, int(number), expression, values)


def _values(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line, wanted in zip(lines, ("left", "right"), strict=False):
        match = _VALUE.match(line[:MOST_COLUMNS])
        if match is None or match[1] != wanted:
            return
        yield wanted, match[2]


def _kunit_message(lines: Sequence[str]) -> list[str]:
    """Those of the lines that are the message: indented, and no comments."""
    said: list[str] = []
    for whole in lines:
        line = whole[:MOST_COLUMNS]
        if line.lstrip().startswith("#") or not _INDENTED.match(line):
            break
        said.append(line.strip())
    return said
