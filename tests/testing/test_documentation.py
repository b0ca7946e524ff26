# SPDX-License-Identifier: MIT
"""The tests in docs/boot-tests*.md are tests, and pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("name", "most"), [("boot-tests", 5), ("boot-tests-coming-from", 7)])
def test_the_documented_tests_pass(
    name: str, most: int, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    blocks = [block for block in blocks if "boot" in block]
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(**{f"test_block_{number}": block for number, block in enumerate(blocks)})
    result = pytester.runpytest_inprocess("-p", "pyvmm.testing.plugin", "-W", "error", "-rs")
    tests = len(re.findall(r"^def test_", "".join(blocks), re.MULTILINE))
    assert tests >= most
    # A host that is not here is skipped, and says so.
    outcomes = result.parseoutcomes()
    assert outcomes.pop("passed") >= tests - len(re.findall(r"\bnetwork\)", "".join(blocks)))
    assert set(outcomes) <= {"skipped"}
    for line in result.outlines:
        if line.startswith("SKIPPED"):
            assert re.search(r"on (kvm|qemu-tcg|qemu-kvm|lab|this machine)", line), line


def test_the_readme_shows_a_test_of_the_tutorial() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    (shown,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
        if "(boot)" in block
    )
    tutorial = (DOCS / "boot-tests-tutorial.md").read_text(encoding="utf-8")
    assert f"```python test_kernel.py\n{shown}```" in tutorial
