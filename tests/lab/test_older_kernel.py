# SPDX-License-Identifier: MIT
"""Lifetimes and parity in a lab of an older kernel, which binds and unbinds in other ways."""

from __future__ import annotations

import json

import pytest

from tests.lab.checkout import packed
from tests.lab.conftest import environment, need_kernel
from tests.lab.places import PYVMM, run
from tests.lab.suites import suites_command

OLDER = "6.12"
"""A kernel of before guest_memfd could be mapped: its files have private memory only."""
SUITES = {"tests/replay": 40, "tests/parity": 120}
"""Folders, and how many tests have to pass at least: so that none is left out unnoticed."""
AT_ONCE = 2
PATIENCE = 1200.0


@pytest.mark.lab
@pytest.mark.slow
def test_replays_and_parity_on_an_older_kernel(tmp_path_factory: pytest.TempPathFactory) -> None:
    need_kernel(OLDER, "older-lab")
    inside = suites_command(AT_ONCE, list(SUITES))
    env = {**environment(tmp_path_factory.mktemp("lab")), "PYVMM_REQUIRE": "kvm"}
    command = [PYVMM, "lab", "run", "--kernel", OLDER, "--memory", "4G", "--", *inside]
    done = run(command, env, given=packed(), patience=PATIENCE)
    assert done.code == 0, (done.out + done.err).decode(errors="replace")[-20000:]
    ended = {one["suite"]: one for one in map(json.loads, done.out.splitlines())}
    assert ended.keys() == SUITES.keys()
    for suite, least in SUITES.items():
        out = ended[suite]["out"]
        assert ended[suite]["code"] == 0, out[-20000:]
        assert int(out.splitlines()[-1].split(" passed")[0].split()[-1]) >= least
    assert "test_a_binding_without_memory[private] PASSED" in ended["tests/replay"]["out"]


@pytest.mark.lab
@pytest.mark.slow
def test_parity_of_two_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A case that the older one lacks, and one that both show."""
    need_kernel(OLDER, "older-lab")
    env = environment(tmp_path_factory.mktemp("labs"))
    pattern = "sizes_that_are_no_pages or mapped_memory"
    kernels = ["--kernel", OLDER, "--kernel", "7.3"]
    done = run([PYVMM, "parity", "--json", *kernels, pattern], env, patience=PATIENCE)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["differences"] == ["test_guest_memfd.py::test_mapped_memory"]
    older, newer = told["kernels"]
    assert older["release"].startswith(OLDER) and newer["release"].startswith("7.3")
    answers = [[case["answer"] for case in kernel["cases"]] for kernel in (older, newer)]
    assert answers == [["shown", "absent"], ["shown", "shown"]]
