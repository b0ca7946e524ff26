# SPDX-License-Identifier: MIT
"""Disks of a ``pyvmm`` that is killed: what its guest was told to be on the disk is there."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.killed_disks import SECTOR, disk_of

KILLS = 100


@pytest.mark.kvm
@pytest.mark.slow
def test_what_was_flushed_outlives_a_kill(tmp_path: Path) -> None:
    chosen = random.Random(17)
    points = [chosen.randint(1, 60) for _ in range(KILLS)]
    command = [sys.executable, "-m", "tests.cli.killed_disks", str(tmp_path), *map(str, points)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = [int(line) for line in done.stdout.split()]
    assert len(last) == KILLS
    assert sum(last) > 10 * KILLS, "hardly a guest had flushed anything"
    for number, flushed in enumerate(last):
        content = disk_of(tmp_path, number).read_bytes()
        for each in range(1, flushed + 1):
            found = content[each * SECTOR : (each + 1) * SECTOR]
            assert found == each.to_bytes(8, "little") * (SECTOR // 8), (number, each)
