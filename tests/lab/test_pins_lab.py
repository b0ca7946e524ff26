# SPDX-License-Identifier: MIT
"""The mail's design as a kernel: attacks and replays in a lab, with each remedy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from pyvmm.lifetime.adapting import design_named
from pyvmm.lifetime.explorer import explore
from pyvmm.lifetime.universe import SMALL, TYPES
from pyvmm.replay.attack import Attack
from pyvmm.replay.remedies import PARAMETERS
from tests.lab.checkout import packed, unpacking
from tests.lab.conftest import environment, need_kernel
from tests.lab.places import PYVMM, run

KERNEL = "memslot-pins-file"
MOST = "8"
"""Sequences to replay with each remedy: all of them take minutes."""
BROKEN_BY = {
    Attack.REBINDING: ("contents-stay", SMALL),
    Attack.LOOKING_IN: ("private-stays-private", TYPES),
}
"""The property that fails in the model of a design that an attack breaks, and in which universe."""
REMEDIES = ("", *PARAMETERS)


def design(remedy: str) -> str:
    return " + ".join(filter(None, [KERNEL, remedy]))


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What was found in the lab, by remedy."""
    need_kernel(KERNEL, "pins-lab")
    inside = unpacking("tests.lab.pins_inside", [MOST])
    command = [PYVMM, "lab", "run", "--kernel", KERNEL, "--", *inside]
    done = run(command, environment(tmp_path_factory.mktemp("lab")), given=packed())
    assert done.code == 0, (done.out + done.err).decode(errors="replace")[-20000:]
    found = {one["remedies"]: one for one in map(json.loads, done.out.splitlines())}
    assert tuple(found) == REMEDIES
    return found


@pytest.mark.parametrize("remedy", REMEDIES)
def test_what_the_model_says_of_attacks(remedy: str) -> None:
    """An attack reaches what it is after in the designs whose property fails, as below."""
    modelled = design_named(design(remedy))
    stopped = {
        attack
        for attack, (prop, universe) in BROKEN_BY.items()
        if explore(modelled, universe).holds(prop)
    }
    by = {
        "zero-at-unbinding": {Attack.REBINDING},
        "zero-at-rebinding": {Attack.REBINDING},
        "owner-in-inode": {Attack.REBINDING},
        "judged-flags": {Attack.LOOKING_IN},
    }
    assert stopped == by.get(remedy, set())


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("remedy", REMEDIES)
def test_attacks_reach_what_the_model_says(tried: Mapping[str, Any], remedy: str) -> None:
    found = tried[remedy]
    assert found["design"] == design(remedy)
    modelled = design_named(found["design"])
    for attack, (prop, universe) in BROKEN_BY.items():
        assert found["reached"][attack.name] is not explore(modelled, universe).holds(prop)


@pytest.mark.lab
@pytest.mark.slow
@pytest.mark.parametrize("remedy", REMEDIES)
def test_the_kernel_does_as_the_model(tried: Mapping[str, Any], remedy: str) -> None:
    found = tried[remedy]
    assert not found["differences"], found["differences"][0]
    assert found["steps"] > 50
    assert found["lives"] > 50
    assert 0 < found["taken"] <= found["transitions"]
