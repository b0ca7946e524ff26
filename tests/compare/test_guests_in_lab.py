# SPDX-License-Identifier: MIT
"""Every bundled guest is compared in the lab, with KVM on both sides, or listed with its reason.

Natively one of the two may have no KVM that works, and this host's KVM has habits of its own. One
process inside does them all, because to start Python takes seconds in there.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pyvmm import bundled_guests
from tests.lab.checkout import packed, unpacking
from tests.lab.conftest import environment
from tests.lab.places import PYVMM, run

from .test_guests import CASES

NOT_COMPARED = {
    "guest": "it is `hello`, byte for byte",
}
"""Bundled images that are not compared, there or anywhere, each with its reason."""
LONGEST = ("memtest", "hypercall", "inventory", "timer", "ring3", "fault", "triple", "convert")
"""Each takes ten seconds or more of a processor in there: they come first."""
NAMES = (*LONGEST, *sorted(set(CASES) - set(LONGEST)))
AT_ONCE = 2
"""The lab has two processors."""
PATIENCE = 1800.0


def test_every_bundled_guest_is_compared_there_or_listed() -> None:
    bundled = {one.name for one in bundled_guests.all_guests()}
    assert {*NAMES, *NOT_COMPARED} == bundled
    assert not set(NAMES) & set(NOT_COMPARED)


def test_the_documentation_lists_the_same() -> None:
    text = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()
    listed = text.split("| not compared | why |\n|---|---|\n")[1].split("\n\n")[0]
    rows = [row.strip("|").split("|") for row in listed.splitlines()]
    assert {name.strip(" `"): why.strip() for name, why in rows} == NOT_COMPARED


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What was wrong with each guest, "" where nothing was: from a lab that lives as long as it."""
    inside = unpacking("tests.lab.compared_inside", [str(AT_ONCE), *NAMES])
    env = environment(tmp_path_factory.mktemp("lab"))
    done = run([PYVMM, "lab", "run", "--", *inside], env, given=packed(), patience=PATIENCE)
    assert done.code == 0, done.err.decode()
    lines = [json.loads(line) for line in done.out.decode().splitlines()]
    return {one["name"]: one["problem"] for one in lines}


@pytest.mark.qemu
@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_behaves_alike_with_kvm_on_both_sides(problems: dict[str, str], name: str) -> None:
    assert problems[name] == ""
