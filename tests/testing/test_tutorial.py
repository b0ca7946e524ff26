# SPDX-License-Identifier: MIT
"""docs/boot-tests-tutorial.md, as it is written: from a wheel, in a fresh virtual environment."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distribution.wheels import ROOT, build, copy_project, pack_what_is_installed
from tests.testing.documents import blocks, is_shown, run_as_written

TUTORIAL = ROOT / "docs" / "boot-tests-tutorial.md"
NEEDED = {
    "cffi", "pyelftools", "qemu-qmp", "rich", "trio", "unicorn",
    "pytest", "pytest-xdist",
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of someone who has Python, gcc, and packages within pip's reach."""
    place = tmp_path_factory.mktemp("tutorial")
    copy_project(place / "tree")
    wheel = build("wheel", place / "tree")
    pack_what_is_installed(NEEDED, wheel.parent)
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    return {
        "PATH": f"{python.parent}:{os.defpath}",
        "HOME": str(place),
        "LC_ALL": "C.UTF-8",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheel.parent),
        "PYVMM_WHEEL": str(wheel),
    }


def of_ci(document: str) -> list[str]:
    """Commands of the recipes for CI, but for those that need a CI's own machine."""
    yaml: Any = importlib.import_module("yaml")
    github, gitlab = (
        yaml.safe_load(block.text) for block in blocks(document) if block.language == "yaml"
    )
    steps = github["jobs"]["boot-tests"]["steps"]
    every = [step["run"] for step in steps if "run" in step] + gitlab["boot-tests"]["script"]
    assert [command for command in every if command.startswith("sudo")] == [
        "sudo chmod 0666 /dev/kvm"
    ]
    return [command for command in dict.fromkeys(every) if not command.startswith("sudo")]


def test_it_does_what_it_says(environment: dict[str, str], tmp_path: Path) -> None:
    document = TUTORIAL.read_text(encoding="utf-8")
    recipes = of_ci(document)
    assert len(recipes) == 3, "the same on both"
    document += "".join(f"\n```console\n$ {command}\n...\n```\n" for command in recipes)
    ran = run_as_written(document, tmp_path, environment)
    lines = [command.line for command, _, _ in ran]
    assert lines.index("pytest") > 0
    wrong = []
    for (command, printed, status), following in zip(ran, [*lines[1:], ""], strict=True):
        is_told = following == "echo $?" or "FAILED " in command.shown
        if not is_shown(command.shown, printed) or (status != 0 and not is_told):
            wrong.append(f"$ {command.line}\n{printed}(status {status})\n")
    assert not wrong, "\n".join(["not as the document says:", *wrong])
    assert 'tests="' in (tmp_path / "tiny" / "report.xml").read_text(encoding="utf-8")
