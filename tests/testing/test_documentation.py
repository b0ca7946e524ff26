# SPDX-License-Identifier: MIT
"""The tests in docs/boot-tests.md are tests, and pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "boot-tests.md").read_text(encoding="utf-8")
BLOCKS = [block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "boot" in block]


def test_the_documented_tests_pass(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(**{f"test_block_{number}": block for number, block in enumerate(BLOCKS)})
    result = pytester.runpytest_inprocess("-p", "pyvmm.testing.plugin", "-W", "error")
    tests = sum(block.count("\ndef test_") for block in BLOCKS)
    assert tests >= 4
    result.assert_outcomes(passed=tests)
