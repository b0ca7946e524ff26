# SPDX-License-Identifier: MIT
"""kill -9 at each step of the set-up of taps and of taking them down: nothing of them stays."""

from __future__ import annotations

import subprocess
import sys

import pytest

TIMES = 200


@pytest.mark.net
@pytest.mark.slow
def test_killed_at_each_step() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.net.killed_taps", str(TIMES)],
        capture_output=True, text=True, timeout=480, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    steps, kills, is_as_before, *left = done.stdout.split()
    assert int(steps) > TIMES
    assert (int(kills), is_as_before, left) == (TIMES, "True", [])
