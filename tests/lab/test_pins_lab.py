# SPDX-License-Identifier: MIT
"""The mail's design as a kernel: attacks and replays in a lab, with each remedy; the demo there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from pyvmm.demo.chapters.pins import PINS
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
def found_inside(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What was found in the lab, as `pins_inside` says it."""
    need_kernel(KERNEL, "pins-lab")
    inside = unpacking("tests.lab.pins_inside", [MOST])
    command = [PYVMM, "lab", "run", "--kernel", KERNEL, "--", *inside]
    done = run(command, environment(tmp_path_factory.mktemp("lab")), given=packed())
    assert done.code == 0, (done.out + done.err).decode(errors="replace")[-20000:]
    return [json.loads(line) for line in done.out.splitlines()]


@pytest.fixture(scope="module")
def tried(found_inside: list[dict[str, Any]]) -> Mapping[str, Any]:
    """What was found of attacks and replays, by remedy."""
    found = {one["remedies"]: one for one in found_inside if "remedies" in one}
    assert tuple(found) == REMEDIES
    return found


@pytest.fixture(scope="module")
def told(found_inside: list[dict[str, Any]]) -> Mapping[str, Any]:
    """What was found of the demo, by chapter."""
    return {one["chapter"]: one for one in found_inside if "chapter" in one}


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


@pytest.mark.lab
@pytest.mark.slow
def test_the_demo_carries_the_design_of_the_kernel_out(told: Mapping[str, Any]) -> None:
    pins = told["pins"]
    assert (
        pins["why"] == "file-pins-vm is followed by the rules alone: this kernel does not have it"
    )
    assert list(pins["steps"]) == [step.id for step in PINS.steps]
    for step in PINS.steps:
        said = pins["steps"][step.id]
        assert [name for name, _ in said["answers"]] == [KERNEL, "file-pins-vm"]
        assert not said["differing"], step.id
        assert len(said["true"]) == (step.question is not None), step.id
    assert pins["steps"]["rebind"]["answers"] == [[KERNEL, "ok"], ["file-pins-vm", "EINVAL"]]
    assert pins["steps"]["read"]["answers"][0] == [KERNEL, "vm0's page"]


@pytest.mark.lab
@pytest.mark.slow
def test_chapters_of_linux_s_design_are_not_told_on_the_kernel_of_another(
    told: Mapping[str, Any],
) -> None:
    about = f"it follows {KERNEL}, and this is about file-pins-vm; use --host model"
    assert told["teardown"]["refused"] == f"cannot tell this chapter on kvm: {about}"
    assert "the chapter pins tells of both designs" in told["slots"]["refused"]
