# SPDX-License-Identifier: MIT
"""The selections leave no room out, and what is left out is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .selection import LONG, has_nothing_quick

TESTS = Path(__file__).parent
FILES = sorted(TESTS.glob("**/test_*.py"))
ROOMS = sorted({path.parent for path in FILES})


@pytest.mark.parametrize("entry", LONG)
def test_what_check_leaves_out_is_there(entry: str) -> None:
    file, _, name = entry.partition("::")
    text = (TESTS.parent / file).read_text()
    assert f"def {name}" in text
    assert "slow" in text, "what takes long is not in `make quick` either"


@pytest.mark.parametrize("room", ROOMS, ids=lambda path: path.name)
def test_quick_and_check_look_into_every_room(room: Path) -> None:
    files = [path for path in FILES if path.parent == room]
    assert any(f"tests/{path.relative_to(TESTS)}" not in LONG for path in files)
    assert not all(map(has_nothing_quick, files))


@pytest.mark.slow
def test_without_a_lab_one_line_says_what_was_not_tested() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/lab/test_prove.py"],
        cwd=TESTS.parent,
        env={**os.environ, "PYVMM_TEST_LAB": "no", "PYVMM_REQUIRE": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    lines = [line for line in done.stdout.splitlines() if "not tested" in line]
    assert lines == ["not tested, for want of a lab: private memory on KVM, 1 tests (LAB=no)"], (
        done.stdout
    )
