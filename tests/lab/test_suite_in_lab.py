"""The tests that need KVM, run in the lab as they run natively."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.lab.places import LabAtHand, Outcome

SUITES = {
    "tests/machine": 80,
    "tests/hosts": 100,
    "tests/parity": 40,
    "tests/firmware": 20,
    "tests/replay": 5,
}
"""Folders, and how many tests have to pass at least: so that none is left out unnoticed.

The ones that take longest come first.
"""
AT_ONCE = 2
"""The lab has as many processors, and each suite keeps one of them busy."""


@pytest.fixture(scope="module")
def runs(lab: LabAtHand, request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Outcome]]]:
    """The suites that are asked for, under way."""

    def run(suite: str) -> Outcome:
        return lab.inside(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "kvm", suite],
            env={"PYVMM_REQUIRE": "kvm,private"},
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
    assert done.code == 0, done.out.decode()[-4000:] + done.err.decode()
    assert "failed" not in last
    assert int(last.split(" passed")[0].split()[-1]) >= SUITES[suite]
