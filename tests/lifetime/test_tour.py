# SPDX-License-Identifier: MIT
"""The sequences that take every transition, and stories told under another design."""

from __future__ import annotations

import pytest

from pyvmm.errors import UsageError
from pyvmm.lifetime.adapting import adapted, check_story, design_named, universe_named
from pyvmm.lifetime.canonical import Canonical
from pyvmm.lifetime.designs import Design, file_pins_vm, memslot_pins_file
from pyvmm.lifetime.explorer import explore
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.scenarios import SCENARIOS, Scenario
from pyvmm.lifetime.story import Story, Told
from pyvmm.lifetime.tour import tour
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import FAMILY, SMALL, STANDARD, Universe

DESIGNS = (file_pins_vm(), memslot_pins_file())


@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: d.name)
@pytest.mark.parametrize(
    "universe", [SMALL, pytest.param(FAMILY, marks=pytest.mark.slow)], ids=lambda u: u.name
)
def test_the_sequences_take_every_transition_of_the_explorers_graph(
    design: Design, universe: Universe
) -> None:
    system, canonical = (
        TransitionSystem(design, universe),
        Canonical(TransitionSystem(design, universe).layout),
    )
    way = tour(design, universe)
    explored = explore(design, universe)
    assert (way.states, way.attempted) == (explored.states, explored.transitions)
    # Every transition there is, by the names that do not matter; those that stay, by all names.
    wanted = set()
    for node in way.nodes:
        for operation, step in system.steps(node.state):
            stays = step.state == node.state
            what = operation if stays else operation.kind
            wanted.add((canonical.of(node.state), what, canonical.of(step.state)))
    taken = set()
    stepped = 0
    for sequence in way.sequences():
        state = system.initial
        for operation in sequence:
            step = system.step(state, operation)
            stays = step.state == state
            what = operation if stays else operation.kind
            taken.add((canonical.of(state), what, canonical.of(step.state)))
            state = step.state
            stepped += 1
    assert wanted <= taken
    assert way.transitions == 0
    assert stepped < 8 * explored.transitions


def test_universes_and_designs_by_name() -> None:
    assert universe_named("standard") is STANDARD
    assert universe_named("vms=1,files=1").vms == 1
    for bad in ("", "vms", "vms=0", "vms=9", "vms=-1", "vms=²", "cats=1", "processes=3", "name=1"):
        with pytest.raises(UsageError):
            universe_named(bad)
    assert design_named("memslot-pins-file", ["owner-in-inode"]).identity
    assert design_named("memslot-pins-file + never-rebind").remedies
    for name, remedies in (("nothing", []), ("file-pins-vm", ["owner-in-inode"])):
        with pytest.raises(UsageError):
            design_named(name, remedies)


def test_a_file_for_no_vm_is_created_for_the_vm_that_binds_it_once_that_is_there() -> None:
    story = explore(memslot_pins_file(), SMALL).stories["contents-stay"]
    told = adapted((step.operation for step in story.steps), file_pins_vm(), SMALL)
    kinds = [step.operation.kind for step in told.steps]
    assert Kind.CREATE_UNOWNED not in kinds
    assert kinds.index(Kind.CREATE_VM) < kinds.index(Kind.CREATE_FILE)


def test_what_leaks_in_one_design_is_refused_by_the_other() -> None:
    operations = next(s for s in SCENARIOS if s.name == "rebind-to-another-vm").operations
    linux, mail = (adapted(operations, design, STANDARD).steps for design in DESIGNS)
    assert mail[-1].outcome == "vm0's page"
    assert (linux[-1].operation.kind, linux[-1].outcome) == (Kind.BIND, "EINVAL")


def test_a_story_must_fit_its_universe() -> None:
    good = Story("file-pins-vm", SMALL, "", (Told(Operation(Kind.CREATE_VM), "ok"),), "")
    check_story(good)
    bad = Story("file-pins-vm", SMALL, "", (Told(Operation(Kind.CREATE_VM, vm=7), "ok"),), "")
    with pytest.raises(UsageError, match="step 1"):
        check_story(bad)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_every_scenario_can_be_done_to_the_end_under_some_design(scenario: Scenario) -> None:
    lengths = [len(adapted(scenario.operations, d, scenario.universe).steps) for d in DESIGNS]
    assert max(lengths) == len(scenario.operations)
    assert min(lengths) >= 5
