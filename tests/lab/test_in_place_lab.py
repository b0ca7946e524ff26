# SPDX-License-Identifier: MIT
"""A lab with a kernel of ours that converts in place: its KVM does what pyvmm claims of it."""

from __future__ import annotations

import re

import pytest

from tests.lab.checkout import packed, unpacking
from tests.lab.conftest import environment, need_kernel
from tests.lab.places import PYVMM, run

KERNEL = "in-place-conversion"
FILES = {
    "tests/parity/test_in_place_conversions.py": 34,
    "tests/machine/test_in_place_guests.py": 6,
    "tests/machine/test_leases_of_machines.py": 3,
    "tests/hosts/test_page_holders.py": 2,
}
"""Files of tests, and how many of each have to pass at least: so that none is left out unnoticed.

A process of pytest is seconds in there: they share one.
"""
OPTIONS = [
    *("-v", "--tb=short", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "kvm"),
    *("-k", "not test_leases_of_machines or (kvm-in-place and not in-place-2)"),
]
PATIENCE = 600.0


@pytest.mark.lab
@pytest.mark.slow
def test_conversions_and_machines_on_a_kernel_that_converts_in_place(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    need_kernel(KERNEL, "in-place-lab")
    inside = unpacking("pytest", [*OPTIONS, *FILES])
    env = {**environment(tmp_path_factory.mktemp("lab")), "PYVMM_REQUIRE": "kvm,in-place"}
    command = [PYVMM, "lab", "run", "--kernel", KERNEL, "--", *inside]
    done = run(command, env, given=packed(), patience=PATIENCE)
    out = (done.out + done.err).decode(errors="replace")
    assert done.code == 0, out[-20000:]
    for file, least in FILES.items():
        passed = len(re.findall(rf"^{re.escape(file)}::.* PASSED", out, re.MULTILINE))
        assert passed >= least, f"{file}: {passed} passed\n{out[-20000:]}"
    assert not re.search(r" SKIPPED .*conversion in place", out)
