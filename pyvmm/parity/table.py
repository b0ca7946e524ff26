# SPDX-License-Identifier: MIT
"""Table of cases in docs/parity.md: what each is called in the kernel, and what shows it here."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """One row: the kernel's test and its case, what that shows, and ``file::function`` here."""

    kernel_test: str
    name: str
    shows: str
    function: str


def parse(text: str) -> tuple[Case, ...]:
    """The rows of the table of cases in Markdown, in order; other tables are left out."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) >= len(Case._fields):
            case = Case._make(cells[: len(Case._fields)])
            if case.function.startswith("`test_"):
                found.append(case._replace(function=case.function.strip("`")))
    return tuple(found)
