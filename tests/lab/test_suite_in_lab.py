"""The tests that need KVM, run in the lab as they run natively: one lab run for all of them."""

from __future__ import annotations

import sys

import pytest

from tests.lab.places import LabAtHand

SUITES = (
    "tests/hosts",
    "tests/machine",
    "tests/firmware",
    "tests/parity",
    "tests/replay",
    "tests/differential",
)


@pytest.mark.lab
@pytest.mark.slow
def test_the_kvm_tests_pass_in_the_lab(lab: LabAtHand) -> None:
    # Its own KVM, its own processor: what these tests claim of KVM must not be this host's habits.
    done = lab.inside(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "kvm", *SUITES],
        env={"PYVMM_REQUIRE": "kvm,private", "PYVMM_DIFFERENTIAL": "60"},
        patience=900,
    )
    last = done.out.decode().splitlines()[-1] if done.out else ""
    assert done.code == 0, done.out.decode()[-4000:] + done.err.decode()
    assert " passed" in last
    assert "failed" not in last
    assert int(last.split(" passed")[0].split()[-1]) > 100
