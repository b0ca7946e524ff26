# SPDX-License-Identifier: MIT
"""Lifetimes replayed in a lab of an older kernel, which binds and unbinds in other ways."""

from __future__ import annotations

import json

import pytest

from pyvmm.errors import HostLacksError
from pyvmm.lab.settings import find_kernel
from tests.conftest import REQUIRED
from tests.lab.checkout import packed, unpacking
from tests.lab.conftest import environment
from tests.lab.places import PYVMM, run

OLDER = "6.12"
"""A kernel of before guest_memfd could be mapped: its files have private memory only."""
LEAST = 20
"""How many tests have to pass: so that none is left out unnoticed."""
PATIENCE = 1200.0


@pytest.mark.lab
@pytest.mark.slow
def test_replays_on_an_older_kernel(tmp_path_factory: pytest.TempPathFactory) -> None:
    try:
        find_kernel(OLDER)
    except HostLacksError as error:
        if "older-lab" in REQUIRED:
            pytest.fail(str(error))
        pytest.skip(f"no lab of Linux {OLDER}: {error}")
    inside = unpacking("tests.lab.suites_inside", ["1", "tests/replay"])
    env = {**environment(tmp_path_factory.mktemp("lab")), "PYVMM_REQUIRE": "kvm"}
    command = [PYVMM, "lab", "run", "--kernel", OLDER, "--memory", "4G", "--", *inside]
    done = run(command, env, given=packed(), patience=PATIENCE)
    assert done.code == 0, (done.out + done.err).decode(errors="replace")[-20000:]
    ended = json.loads(done.out)
    assert ended["code"] == 0, ended["out"][-20000:]
    assert "test_a_binding_without_memory[private] PASSED" in ended["out"]
    assert int(ended["out"].splitlines()[-1].split(" passed")[0].split()[-1]) >= LEAST
