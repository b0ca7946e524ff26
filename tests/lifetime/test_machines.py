# SPDX-License-Identifier: MIT
"""Several VMs of one virtual machine: helpers, and a VM that takes it over from another."""

from __future__ import annotations

import pytest

from pyvmm.errors import UsageError
from pyvmm.lifetime.adapting import design_named
from pyvmm.lifetime.checks import World
from pyvmm.lifetime.designs import (
    Design,
    Remedy,
    file_pins_vm,
    file_pins_vm_moving_files,
    memslot_pins_file,
)
from pyvmm.lifetime.explorer import explore
from pyvmm.lifetime.holdings import Why, counts, holdings
from pyvmm.lifetime.layout import State
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.properties import BY_NAME
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import MOVED, Universe
from pyvmm.rules.lifecycle import Effect, Event

from .renaming import assert_states_called_one_behave_as_one

LINUX, MOVING = file_pins_vm(), file_pins_vm_moving_files()
WITHOUT_LINKS = Universe("alone", 2, 1, 1, 1, 1, 1, moves=True, host_maps=False)
OUTLIVES = "memory-dies-with-its-vm"
JOIN, MOVE = Operation(Kind.JOIN_VM, vm=1), Operation(Kind.MOVE_CONTEXT, vm=1)
FIRST = (Kind.CREATE_VM, Kind.CREATE_FILE, Kind.BIND, Kind.GUEST_WRITE)


def do(system: TransitionSystem, *operations: Operation) -> tuple[list[str], State]:
    """The outcomes, and the state after them."""
    state, outcomes = system.initial, []
    for operation in operations:
        step = system.step(state, operation)
        assert not step.faults
        outcomes.append(step.outcome)
        state = step.state
    return outcomes, state


def kinds(story: Story) -> list[Kind]:
    return [step.operation.kind for step in story.steps]


def test_a_helper_keeps_the_vm_whose_virtual_machine_it_uses() -> None:
    system = TransitionSystem(LINUX, MOVED)
    _, state = do(system, Operation(Kind.CREATE_VM), JOIN, Operation(Kind.CLOSE_VM))
    assert counts(system.layout, state) == {"vm0": 1, "vm1": 1}
    (edge,) = (e for e in holdings(LINUX.lifecycle, system.layout, state) if e.held == "vm0")
    assert (edge.holder, edge.why) == ("vm1", Why.HELPER)
    assert edge.why.pins
    state = system.step(state, Operation(Kind.CLOSE_VM, vm=1)).state
    assert state == system.initial


def test_helpers_hold_vms_that_are_none() -> None:
    three = Universe("three", 3, 1, 1, 1, 1, 1, links=True)
    outcomes, _ = do(
        TransitionSystem(LINUX, three),
        Operation(Kind.CREATE_VM), JOIN, Operation(Kind.JOIN_VM, vm=2, of=1),
    )  # fmt: skip
    assert outcomes == ["ok", "ok", "EINVAL"]


def test_a_helper_that_takes_no_reference_is_found_with_three_steps() -> None:
    broken = LINUX.without(Event.JOIN_VM, Effect.HELPER_TAKES_VM)
    found = explore(
        broken, MOVED, properties=[BY_NAME["helper-dies-first"]], intended=LINUX, stop_early=True
    )
    story = found.stories["helper-dies-first"]
    assert kinds(story) == [Kind.CREATE_VM, Kind.JOIN_VM, Kind.CLOSE_VM]
    assert story.ending == "vm1 uses the virtual machine of vm0, which is freed"


def test_a_vm_that_gave_its_virtual_machine_away_can_only_be_closed() -> None:
    system = TransitionSystem(LINUX, MOVED)
    first = [Operation(kind) for kind in FIRST]
    _, state = do(system, *first, MOVE)
    asked = {
        op.kind: step.outcome
        for op, step in system.steps(state)
        if op.kind in (Kind.GUEST_READ, Kind.UNBIND, Kind.MOVE)
        or (op.vm == 0 and op.kind in (Kind.CREATE_FILE, Kind.BIND, Kind.LINK))
    }
    assert set(asked.values()) == {"EIO"}
    assert len(asked) == 6
    again, _ = do(system, *first, MOVE, Operation(Kind.CLOSE_FILE), Operation(Kind.CLOSE_VM))
    assert again[-1] == "ok"
    # Its number is free again; who has nothing left to give gives nothing.
    three = Universe("three", 3, 1, 1, 1, 1, 1, links=True, moves=True)
    twice = (Operation(Kind.CREATE_VM), MOVE, Operation(Kind.MOVE_CONTEXT, vm=2))
    assert do(TransitionSystem(LINUX, three), *twice)[0] == ["ok", "ok", "EINVAL"]


def test_helpers_go_with_the_virtual_machine() -> None:
    three = Universe("three", 3, 1, 1, 1, 1, 1, links=True, moves=True)
    system = TransitionSystem(LINUX, three)
    move = Operation(Kind.MOVE_CONTEXT, vm=2)
    _, state = do(system, Operation(Kind.CREATE_VM), JOIN, move, Operation(Kind.CLOSE_VM))
    assert counts(system.layout, state) == {"vm1": 1, "vm2": 2}
    # A helper that is moved leaves its place to its successor.
    move = Operation(Kind.MOVE_CONTEXT, vm=2, of=1)
    _, state = do(system, Operation(Kind.CREATE_VM), JOIN, move, Operation(Kind.CLOSE_VM, vm=1))
    assert counts(system.layout, state) == {"vm0": 2, "vm2": 1}


def test_who_moves_without_memory_leaves_it_behind() -> None:
    story = explore(LINUX, MOVED).stories[OUTLIVES]
    assert kinds(story) == [*FIRST, Kind.MOVE_CONTEXT, Kind.CLOSE_VM]
    assert story.steps[-1].operation.vm == 1
    assert explore(MOVING, MOVED).holds(OUTLIVES)


def test_a_reboot_takes_a_link_or_files_that_move() -> None:
    assert explore(LINUX, WITHOUT_LINKS).holds("reboot"), "a possibility that is none"
    linked = explore(LINUX, MOVED).stories["reboot"]
    assert len(linked.steps) == 10
    assert Kind.LINK in kinds(linked)
    moving = explore(MOVING, WITHOUT_LINKS).stories["reboot"]
    assert kinds(moving) == [
        *FIRST, Kind.MOVE_CONTEXT, Kind.CLOSE_VM, Kind.BIND, Kind.GUEST_READ,
    ]  # fmt: skip
    mail = explore(memslot_pins_file(), WITHOUT_LINKS)
    assert "with another virtual machine" in mail.stories["reboot"].ending
    owned = explore(memslot_pins_file(Remedy.OWNER_IN_INODE), WITHOUT_LINKS)
    assert len(owned.stories["reboot"].steps) == 8
    assert not owned.holds(OUTLIVES)


def test_what_the_successor_wrote_itself_is_not_found() -> None:
    system = TransitionSystem(MOVING, WITHOUT_LINKS)
    check = BY_NAME["reboot"].step
    assert check is not None
    world = World.of(MOVING.lifecycle, system.layout, MOVING.lifecycle)
    rest = (Operation(Kind.CLOSE_VM), Operation(Kind.BIND, vm=1), Operation(Kind.GUEST_WRITE))
    _, state = do(system, *[Operation(kind) for kind in FIRST], MOVE, *rest)
    read = Operation(Kind.GUEST_READ)
    step = system.step(state, read)
    assert check(world, state, read, step.outcome, step.state) is None


@pytest.mark.parametrize("design", [LINUX, MOVING, memslot_pins_file()], ids=lambda d: d.name)
def test_renaming_is_sound_where_virtual_machines_move(design: Design) -> None:
    assert_states_called_one_behave_as_one(design, MOVED, 500)


def test_variants_have_names() -> None:
    assert design_named("file-pins-vm + moving-files") == MOVING
    with pytest.raises(UsageError):
        design_named("file-pins-vm + moving-files", ["owner-in-inode"])
    with pytest.raises(UsageError):
        design_named("file-pins-vm + any-link + moving-files")
