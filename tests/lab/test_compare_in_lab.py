# SPDX-License-Identifier: MIT
"""Guests in the lab, under pyvmm and QEMU, both with the lab's KVM: they behave alike.

Natively one of the two may have no KVM that works, and this host's KVM has habits of its own.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.places import LabAtHand

pytestmark = [pytest.mark.qemu, pytest.mark.lab, pytest.mark.slow]

NAMES = ("memtest", "hypercall", "inventory", "timer", "ring3", "fault", "triple", "convert")
"""Those whose run depends on KVM. Each takes ten seconds or more of a processor in there."""
AT_ONCE = 2
"""The lab has two processors."""
PATIENCE = 900.0


@pytest.fixture(scope="module")
def problems(lab: LabAtHand) -> dict[str, str]:
    """What was wrong with each guest, "" where nothing was."""

    def compare(some: tuple[str, ...]) -> str:
        command = [sys.executable, "-m", "tests.lab.compared_inside", *some]
        done = lab.inside(command, patience=PATIENCE)
        assert done.code == 0, done.err.decode()
        return done.out.decode()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        parts = pool.map(compare, [NAMES[start::AT_ONCE] for start in range(AT_ONCE)])
        lines = [json.loads(line) for part in parts for line in part.splitlines()]
    return {one["name"]: one["problem"] for one in lines}


@pytest.mark.parametrize("name", NAMES)
def test_it_behaves_alike_with_kvm_on_both_sides(problems: dict[str, str], name: str) -> None:
    assert problems[name] == ""


def test_the_command_works_in_there(lab: LabAtHand) -> None:
    done = lab.inside(
        [
            *(sys.executable, "-m", "pyvmm", "compare", "exit", "--append", "7", "-m", "4M"),
            *("--runs", "1", "--host", "kvm", "--accel", "kvm"),
        ]
    )
    text = done.out.decode()
    assert done.code == 0, text + done.err.decode()
    assert text.splitlines()[-1] == "The behaviour agrees."
    assert "exited 7" in text
    # Counted by the lab's KVM on both sides, and timed.
    assert "io_exits" in text
    assert "█" in text
