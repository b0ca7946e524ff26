# SPDX-License-Identifier: MIT
"""``pyvmm compare`` in the lab, with the lab's KVM on both sides."""

from __future__ import annotations

import pytest

from tests.lab.checkout import module_of
from tests.lab.places import LabAtHand

pytestmark = [pytest.mark.qemu, pytest.mark.lab, pytest.mark.slow]


def test_the_command_works_in_there(lab: LabAtHand, checkout: str) -> None:
    what = ("compare", "exit", "--append", "7", "-m", "4M", "--runs", "1")
    done = lab.inside(module_of(checkout, "pyvmm", [*what, "--host", "kvm", "--accel", "kvm"]))
    text = done.out.decode()
    assert done.code == 0, text + done.err.decode()
    assert text.splitlines()[-1] == "The behaviour agrees."
    assert "exited 7" in text
    # Counted by the lab's KVM on both sides, and timed.
    assert "io_exits" in text
    assert "█" in text
