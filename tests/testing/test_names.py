# SPDX-License-Identifier: MIT
"""The public names of boot tests: loaded when used, and all of them documented."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from pyvmm import testing

DOCUMENTED = (Path(__file__).parents[2] / "docs" / "boot-tests.md").read_text(encoding="utf-8")


def test_every_name_is_there_and_type_checkers_are_told_the_same() -> None:
    told: dict[str, str] = {}
    for node in ast.walk(ast.parse(Path(testing.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyvmm."):
            told.update({alias.name: node.module or "" for alias in node.names})
    assert told == testing._MODULES
    assert sorted(told) == list(testing.__all__)
    for name in testing.__all__:
        assert getattr(testing, name).__module__ in (told[name], "pyvmm.testing")
    with pytest.raises(AttributeError, match="no attribute 'Life'"):
        testing.Life  # type: ignore[attr-defined]  # noqa: B018


def test_every_name_is_documented_and_only_those() -> None:
    rows = DOCUMENTED[DOCUMENTED.index("## Names") :].split("\n## ")[0]
    found = {
        name
        for row in re.findall(r"^\| (`.+?) \|", rows, re.MULTILINE)
        for name in re.findall(r"`(\w+)", row)
    }
    assert found == set(testing.__all__)
