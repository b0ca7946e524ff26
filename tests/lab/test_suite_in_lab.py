# SPDX-License-Identifier: MIT
"""The tests that need KVM, run in the lab as they run natively."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from tests.lab.checkout import packed
from tests.lab.conftest import environment
from tests.lab.places import PYVMM, run
from tests.lab.suites import suites_command

SUITES = {
    "tests/machine": 80,
    "tests/hosts": 100,
    "tests/differential": 4,
    "tests/parity": 90,
    "tests/firmware": 20,
    "tests/replay": 30,
    "tests/demo/private": 10,
    "tests/demo/attackers": 4,
    "tests/examples": 10,
    "tests/net": 1,
}
"""Folders, and how many tests have to pass at least: so that none is left out unnoticed.

The ones that take longest come first.
"""
SEQUENCES = 100
"""Of memory operations, for each kind of VM: Python is slow in there."""
MOVES = 6
"""Of a guest to a new machine: a machine takes a second or more to make in there."""
AT_ONCE = 2
"""The lab has two processors."""
MEMORY = "4G"
"""For guests on both sides of the hole below 4 GiB."""
PATIENCE = 2700.0


@dataclass(frozen=True)
class SuiteRun:
    """How a suite ended: `code` is pytest's status, negative for a signal."""

    suite: str
    code: int
    out: str


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, SuiteRun]:
    """The suites that are asked for, in one lab and forked from one process."""
    asked = {item.callspec.params.get("suite") for item in _parametrized(request.session)}
    suites = [suite for suite in SUITES if suite in asked]
    inside = suites_command(AT_ONCE, suites)
    env = {
        **environment(tmp_path_factory.mktemp("lab")),
        "PYVMM_REQUIRE": "kvm,private,vhost,nft",
        "PYVMM_DIFFERENTIAL": str(SEQUENCES),
        "PYVMM_MOVES": str(MOVES),
    }
    command = [PYVMM, "lab", "run", "--memory", MEMORY, "--", *inside]
    done = run(command, env, given=packed(), patience=PATIENCE)
    assert done.code == 0, (done.out + done.err).decode(errors="replace")[-20000:]
    # Where the process of a suite ended at a test that hung, this says in which line.
    print(done.err.decode(errors="replace")[-20000:])
    found = [SuiteRun(**json.loads(line)) for line in done.out.splitlines()]
    return {each.suite: each for each in found}


def _parametrized(session: pytest.Session) -> list[pytest.Function]:
    return [
        item
        for item in session.items
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
    ]


def _failures(out: str) -> str:
    """Output of pytest on those that failed, without the hundreds that passed."""
    found = [out.find(heading) for heading in ("= ERRORS =", "= FAILURES =") if heading in out]
    return out[min(found, default=0) :]


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_the_kvm_tests_pass_in_the_lab(runs: dict[str, SuiteRun], suite: str) -> None:
    # Its own KVM, its own processor: what these tests claim of KVM must not be this host's habits.
    ended = runs[suite]
    last = ended.out.splitlines()[-1] if ended.out else ""
    print(_failures(ended.out)[-20000:])  # Shown where this fails.
    assert ended.code == 0
    assert "failed" not in last
    assert int(last.split(" passed")[0].split()[-1]) >= SUITES[suite]
