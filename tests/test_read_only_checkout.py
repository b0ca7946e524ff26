# SPDX-License-Identifier: MIT
"""Tests run where nothing can be written to the checkout, as in the lab."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]


@given(st.integers())
def test_hypothesis_goes_on_without_its_database(number: int) -> None:
    assert number - number == 0


@pytest.mark.slow
def test_so_it_does_where_there_is_no_place_for_it() -> None:
    name = f"{__file__}::{test_hypothesis_goes_on_without_its_database.__name__}"
    options = ("-q", "-p", "no:cacheprovider", "--hypothesis-profile=quick")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, name],
        cwd=ROOT,
        # Below what is no folder nothing can be made, not even by root.
        env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": "/dev/null/nowhere"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
