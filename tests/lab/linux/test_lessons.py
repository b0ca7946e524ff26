# SPDX-License-Identifier: MIT
"""docs/linux-lessons.md names tests, and these are there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.lab.places import ROOT

_PAGE = ROOT / "docs" / "linux-lessons.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[list[str]]:
    lines = _PAGE.read_text(encoding="utf-8").splitlines()
    cells = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in cells[1:]]


@pytest.fixture(scope="module")
def functions() -> dict[str, set[str]]:
    """The tests of every file that is named."""
    found = {}
    for file, _ in _TEST.findall(_PAGE.read_text(encoding="utf-8")):
        if file not in found:
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            found[file] = {
                node.name
                for node in ast.walk(tree)
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return found


def test_every_lesson_has_a_source_and_tests_that_are_there(functions: dict[str, set[str]]) -> None:
    assert len(rows()) > 30
    for row in rows():
        assert len(row) == 3, row
        what, seen, tests = row
        assert what
        assert seen
        named = _TEST.findall(tests)
        assert named, what
        assert _TEST.sub("", tests).strip() == "", what
        for file, name in named:
            assert name in functions[file], f"{what}: {file} has no {name}"


def test_no_lesson_is_there_twice() -> None:
    whats = [row[0] for row in rows()]
    assert len(whats) == len(set(whats))
