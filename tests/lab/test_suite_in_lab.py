"""The tests that need KVM, run in the lab as they run natively."""

from __future__ import annotations

import sys

import pytest

from tests.lab.places import LabAtHand

SUITES = {
    "tests/hosts": 100,
    "tests/machine": 80,
    "tests/firmware": 20,
    "tests/parity": 40,
    "tests/replay": 5,
}
"""Folders, and how many tests have to pass at least: so that none is left out unnoticed."""


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_the_kvm_tests_pass_in_the_lab(lab: LabAtHand, suite: str) -> None:
    # Its own KVM, its own processor: what these tests claim of KVM must not be this host's habits.
    done = lab.inside(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "kvm", suite],
        env={"PYVMM_REQUIRE": "kvm,private"},
        patience=900,
    )
    last = done.out.decode().splitlines()[-1] if done.out else ""
    assert done.code == 0, done.out.decode()[-4000:] + done.err.decode()
    assert "failed" not in last
    assert int(last.split(" passed")[0].split()[-1]) >= SUITES[suite]
