# SPDX-License-Identifier: MIT
"""docs/parity.md: every row's test exists, and every test has its row."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE.parents[1] / "docs" / "parity.md"
COLUMNS = 7
OTHERS = {Path(__file__).name, "test_kernel_answers.py"}
"""Tests of what the cases need, not of cases."""
ANSWER = re.compile(r"(yes|no|default|protected)( \([a-z](, [a-z])*\))?")


def rows() -> list[list[str]]:
    """The cells of the table of cases, without its heading."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line[:1] == "|"]
    return [row for row in cells if len(row) == COLUMNS and row[3].startswith("`test_")]


def defined() -> set[str]:
    """``file::function`` of every test here but those in `OTHERS`."""
    found = set()
    for path in HERE.glob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.add(f"{path.name}::{node.name}")
    return {name for name in found if name.partition("::")[0] not in OTHERS}


def test_rows_and_tests_are_the_same() -> None:
    named = Counter(row[3].strip("`") for row in rows())
    assert set(named) == defined()
    assert set(named.values()) == {1}
    assert len(named) > 25


def test_answers_are_of_the_known_kinds_and_their_notes_exist() -> None:
    text = TABLE.read_text(encoding="utf-8")
    notes = set(re.findall(r"^- \(([a-z])\) ", text, re.MULTILINE))
    used = set()
    for row in rows():
        assert all(ANSWER.fullmatch(answer) for answer in row[4:]), row
        for group in re.findall(r"\(([a-z](?:, [a-z])*)\)", " ".join(row)):
            used.update(group.split(", "))
    assert used == notes


def is_error(node: ast.expr) -> bool:
    """``errno.NAME``, or the 0 that stands for success."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id == "errno"
    return isinstance(node, ast.Constant) and node.value == 0


def alternatives(source: str) -> list[int]:
    """The lines that name several results of one call to choose from."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Set | ast.List | ast.Tuple)
        and sum(map(is_error, node.elts)) > 1
        and any(is_error(element) and isinstance(element, ast.Attribute) for element in node.elts)
    ]


def test_no_case_accepts_either_of_two_errors() -> None:
    """What kernels answer differently is told by `kernel_answers`, so one of them is right."""
    assert alternatives("seen in {errno.EEXIST, errno.EINVAL}") == [1]
    assert alternatives("REFUSALS = (0, errno.EINVAL)") == [1]
    assert alternatives("seen == {errno.EINVAL}") == []
    found = {
        path.name: alternatives(path.read_text(encoding="utf-8")) for path in HERE.glob("*.py")
    }
    assert {name: lines for name, lines in found.items() if lines} == {}
