# SPDX-License-Identifier: MIT
"""The tests that need KVM, run in the lab as they run natively."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.lab.conftest import environment
from tests.lab.places import LabAtHand, Outcome

SUITES = {
    "tests/machine": 80,
    "tests/hosts": 100,
    "tests/differential": 4,
    "tests/parity": 40,
    "tests/firmware": 20,
    "tests/replay": 5,
}
"""Folders, and how many tests have to pass at least: so that none is left out unnoticed.

The ones that take longest come first.
"""
STUCK = 240
"""Seconds after which a test in the lab tells where each of its threads is, and goes on."""
OPTIONS = (
    *("-v", "--tb=short", "-p", "no:cacheprovider", "-m", "kvm"),
    *("-o", f"faulthandler_timeout={STUCK}"),
    *("-W", "ignore::hypothesis.errors.HypothesisWarning"),
)
SEQUENCES = 100
"""Of memory operations, for each kind of VM: Python is slow in there."""
AT_ONCE = 2
"""Each suite has a lab of its own."""


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Outcome]]]:
    """The suites that are asked for, under way."""

    def run(suite: str) -> Outcome:
        own = LabAtHand(environment(tmp_path_factory.mktemp("lab")))
        return own.inside(
            [sys.executable, "-m", "pytest", *OPTIONS, suite],
            env={"PYVMM_REQUIRE": "kvm,private", "PYVMM_DIFFERENTIAL": str(SEQUENCES)},
            patience=900,
        )

    asked = {item.callspec.params.get("suite") for item in _parametrized(request.session)}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            yield {suite: pool.submit(run, suite) for suite in SUITES if suite in asked}
        finally:
            pool.shutdown(cancel_futures=True)


def _parametrized(session: pytest.Session) -> list[pytest.Function]:
    return [
        item
        for item in session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_the_kvm_tests_pass_in_the_lab(runs: dict[str, Future[Outcome]], suite: str) -> None:
    # Its own KVM, its own processor: what these tests claim of KVM must not be this host's habits.
    done = runs[suite].result()
    last = done.out.decode().splitlines()[-1] if done.out else ""
    print(done.out.decode()[-20000:], done.err.decode())  # Shown where this fails.
    assert done.code == 0
    assert "failed" not in last
    assert int(last.split(" passed")[0].split()[-1]) >= SUITES[suite]
