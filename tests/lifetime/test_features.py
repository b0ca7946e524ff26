# SPDX-License-Identifier: MIT
"""Features of a universe: what they add to a state, and that nothing changes without them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyvmm.errors import UsageError
from pyvmm.lifetime.adapting import check_story, check_universe, universe_named
from pyvmm.lifetime.designs import file_pins_vm
from pyvmm.lifetime.layout import EXTRAS, Layout
from pyvmm.lifetime.operations import Kind, Operation, operations
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import SMALL, UNIVERSES, Feature, Universe

ALL_OF_THEM = replace(
    SMALL, links=True, vcpus=1, types=2, errors=True, failures=True, moves=True, updates=True
)


def test_a_story_saved_before_there_were_features_is_read() -> None:
    numbers = {"process": 0, "vm": 0, "file": 0, "slot": 0, "page": 0}
    story = Story.from_json(
        {
            "format": "pyvmm lifetime story 1",
            "design": "file-pins-vm",
            "universe": {
                "name": "small", "vms": 2, "files": 1, "slots": 1, "pages": 1, "processes": 1,
                "handles": 1, "secrets": 1, "links": False,
            },
            "about": "",
            "steps": [
                {"operation": {"kind": kind, **numbers}, "outcome": "ok", "faults": []}
                for kind in ("create_vm", "create_file", "bind")
            ],
            "ending": "",
        }
    )  # fmt: skip
    assert story.universe == SMALL
    assert story.universe.features == ()
    assert [step.operation for step in story.steps] == [
        Operation(Kind.CREATE_VM), Operation(Kind.CREATE_FILE), Operation(Kind.BIND),
    ]  # fmt: skip
    check_story(story)


def test_cells_of_features_are_there_only_with_them() -> None:
    for universe in UNIVERSES.values():
        layout = Layout(universe)
        there = {each.name for each in EXTRAS if getattr(layout, each.name) >= 0}
        assert there == {each.name for each in EXTRAS if universe.has(each.needs)}
    everything = Layout(ALL_OF_THEM)
    assert all(getattr(everything, each.name) >= 0 for each in EXTRAS)
    assert everything.size > Layout(replace(ALL_OF_THEM, updates=False)).size


def test_universes_put_together_by_hand_can_have_features() -> None:
    universe = universe_named("vms=1,vcpus=2,types=2,errors=1,host_maps=0")
    assert universe.features == (Feature.VCPUS, Feature.TYPES, Feature.ERRORS)
    assert not universe.host_maps
    assert universe_named("vcpus=0").features == ()
    for bad in ("vcpus=4", "types=0", "types=3", "errors=2", "errors=yes", "links="):
        with pytest.raises(UsageError):
            universe_named(bad)
    for changes in ({"errors": 1}, {"vcpus": True}, {"types": "two"}):
        with pytest.raises(UsageError):
            check_universe(replace(SMALL, **changes), "test")


WITHOUT_MAPPINGS = Universe("without mappings", 2, 1, 1, 1, 1, 1, host_maps=False)


def test_files_without_mappings_are_private_memory() -> None:
    kinds = {each.kind for each in operations(WITHOUT_MAPPINGS, system_creation=False)}
    assert kinds.isdisjoint({Kind.MAP, Kind.UNMAP, Kind.HOST_READ})
    system = TransitionSystem(file_pins_vm(), WITHOUT_MAPPINGS)
    state = system.initial
    for kind in (Kind.CREATE_VM, Kind.CREATE_FILE, Kind.BIND, Kind.GUEST_WRITE):
        step = system.step(state, Operation(kind))
        assert step.outcome == "ok"
        state = step.state
    assert system.step(state, Operation(Kind.GUEST_READ)).outcome == "vm0's page"
