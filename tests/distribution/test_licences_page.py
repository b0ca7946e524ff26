# SPDX-License-Identifier: MIT
"""docs/licences.md: a row for everything that pyvmm depends on, and none for anything else."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def normalised(requirement: str) -> str:
    """The name of a requirement, as PEP 503 has it."""
    found = _NAME.match(requirement)
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def rows(heading: str) -> dict[str, str]:
    """The rows of the tables below a heading of the page: the package's name and its licence."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in section.splitlines() if "|" in line]
    return {
        normalised(row[0]): row[2] for row in cells if row[0] not in {"package", "---|---|---|---"}
    }


def brought_along(names: set[str]) -> set[str]:
    """Everything that `names` require on this machine, and what that requires, and so on."""
    known: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        known.add(name)
        for requirement in metadata.requires(name) or ():
            condition = requirement.partition(";")[2]
            if "extra ==" in condition or re.search(r"(os_name|sys_platform) ==|python", condition):
                continue
            if normalised(requirement) not in known:
                waiting.add(normalised(requirement))
    return known


def test_everything_that_runs_has_a_row() -> None:
    direct = {normalised(one) for one in PROJECT["project"]["dependencies"]}
    assert len(direct) > 5
    assert set(rows("Needed to run")) == brought_along(direct)


def test_everything_that_builds_and_tests_has_a_row() -> None:
    extras = PROJECT["project"]["optional-dependencies"].values()
    named = {normalised(one) for extra in extras for one in extra}
    named |= {normalised(one) for one in PROJECT["build-system"]["requires"]}
    assert set(rows("Needed to build and to test")) == named - set(rows("Needed to run"))


def test_every_row_has_a_licence() -> None:
    for heading in ("Needed to run", "Needed to build and to test"):
        for name, licence in rows(heading).items():
            assert re.search(r"MIT|BSD|GPL|MPL|Apache|public domain", licence), name
    assert "GPL-2.0" in rows("Needed to run")["unicorn"]
