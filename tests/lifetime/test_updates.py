# SPDX-License-Identifier: MIT
"""Preservation over a live update: what a session holds, freezes, hands on and lets go."""

from __future__ import annotations

import pytest

from pyvmm.lifetime.designs import Design, Remedy, file_pins_vm, memslot_pins_file
from pyvmm.lifetime.explorer import Exploration, explore
from pyvmm.lifetime.holdings import Why, counts, holdings
from pyvmm.lifetime.layout import INODE_FILES, INODE_TAGS, Layout, State
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import UPDATED, Feature, Universe
from pyvmm.rules.lifecycle import Effect, Event

from .renaming import assert_states_called_one_behave_as_one

LINUX, MAIL = file_pins_vm(), memslot_pins_file()
ZEROING = memslot_pins_file(Remedy.ZERO_AT_UNBINDING)
OUTLIVES = "memory-dies-with-its-vm"
TWO_VMS = Universe("two VMs", 2, 1, 1, 1, 1, 1, updates=True)

VM, FILE = Operation(Kind.CREATE_VM), Operation(Kind.CREATE_FILE)
BIND, WRITE, READ = (
    Operation(kind) for kind in (Kind.BIND, Kind.GUEST_WRITE, Kind.GUEST_READ)
)  # fmt: skip
PRESERVE = (Operation(Kind.PRESERVE_VM), Operation(Kind.PRESERVE_FILE))
KEXEC, FINISH = Operation(Kind.KEXEC), Operation(Kind.FINISH)
RETRIEVE_VM, RETRIEVE_FILE = Operation(Kind.RETRIEVE_VM), Operation(Kind.RETRIEVE_FILE)
WRITTEN = (VM, FILE, BIND, WRITE)


def do(*operations: Operation, universe: Universe = UPDATED) -> tuple[list[str], State]:
    """The outcomes under Linux's design, and the state after them."""
    system = TransitionSystem(LINUX, universe)
    state, outcomes = system.initial, []
    for operation in operations:
        step = system.step(state, operation)
        assert not step.faults
        outcomes.append(step.outcome)
        state = step.state
    return outcomes, state


def possible(state: State, universe: Universe = UPDATED) -> set[Kind]:
    return {op.kind for op, _ in TransitionSystem(LINUX, universe).steps(state)}


@pytest.fixture(scope="module")
def linux() -> Exploration:
    return explore(LINUX, UPDATED)


def kinds(story: Story) -> list[Kind]:
    return [step.operation.kind for step in story.steps]


def test_successors_are_no_feature_of_their_own() -> None:
    assert UPDATED.features == (Feature.UPDATES,)
    assert UPDATED.has(Feature.SUCCESSORS)


def test_a_session_holds_what_is_preserved() -> None:
    layout = Layout(UPDATED)
    closing = (Operation(Kind.CLOSE_VM), Operation(Kind.CLOSE_FILE))
    _, state = do(*WRITTEN, *PRESERVE, *closing)
    assert counts(layout, state) == {"vm0": 2, "file0": 1, "inode0": 1}
    _, state = do(*WRITTEN, *PRESERVE, *closing, Operation(Kind.UNPRESERVE))
    assert state == layout.initial


def test_a_frozen_file_gives_and_takes_no_page() -> None:
    frozen = (*WRITTEN, Operation(Kind.MAP), PRESERVE[1])
    punch = Operation(Kind.PUNCH)
    other, far = Operation(Kind.HOST_READ, page=1), Operation(Kind.HOST_READ)
    outcomes, _ = do(*frozen, READ, WRITE, far, other, punch)
    assert outcomes[-5:] == ["vm0's page", "ok", "vm0's page", "SIGBUS", "EPERM"]
    outcomes, _ = do(*frozen, Operation(Kind.UNPRESERVE), other, punch)
    assert outcomes[-2:] == ["zeroes", "ok"]


def test_only_records_and_their_memory_are_left_of_a_kexec() -> None:
    layout = Layout(UPDATED)
    _, state = do(*WRITTEN, *PRESERVE, KEXEC)
    assert not any(state[: layout.inode[0]])
    assert not any(state[layout.slot[0] : layout.vm_record[0]])
    assert state[layout.inode[0] + INODE_FILES] == 1
    assert state[layout.inode[0] + INODE_TAGS] == 1
    assert state[layout.inode[0] + layout.frozen] == 0
    assert not possible(state) & {Kind.PRESERVE_VM, Kind.KEXEC, Kind.UNPRESERVE}
    # A new VM is of another virtual machine: the record keeps the old one's.
    _, state = do(*WRITTEN, *PRESERVE, KEXEC, VM)
    assert state[layout.vm[0] + 2] == 2


def test_a_file_brings_its_vm_along() -> None:
    layout = Layout(UPDATED)
    outcomes, state = do(*WRITTEN, *PRESERVE, KEXEC, RETRIEVE_FILE)
    assert outcomes[-1] == "ok"
    assert counts(layout, state) == {"vm0": 2, "file0": 2, "inode0": 1}
    outcomes, state = do(*WRITTEN, *PRESERVE, KEXEC, RETRIEVE_FILE, RETRIEVE_VM, FINISH, BIND, READ)
    assert outcomes[-1] == "vm0's page"
    assert counts(layout, state) == {"vm0": 2, "file0": 1, "inode0": 1}


def test_holdings_explain_the_counts_at_every_step() -> None:
    system = TransitionSystem(LINUX, UPDATED)
    steps = (*WRITTEN, *PRESERVE, KEXEC, RETRIEVE_FILE, RETRIEVE_VM, BIND, FINISH)
    state, seen = system.initial, set()
    for operation in steps:
        state = system.step(state, operation).state
        edges = holdings(LINUX.lifecycle, system.layout, state)
        seen |= {edge.why for edge in edges}
        for name, count in counts(system.layout, state).items():
            assert sum(edge.held == name and edge.why.pins for edge in edges) == count
    assert {Why.SESSION, Why.RECORD_PAGES, Why.RECORD_OF} <= seen


def test_what_nobody_retrieves_goes_with_the_session() -> None:
    layout = Layout(UPDATED)
    _, state = do(*WRITTEN, *PRESERVE, KEXEC, FINISH)
    assert state == layout.initial
    _, state = do(*WRITTEN, *PRESERVE, KEXEC, RETRIEVE_VM, FINISH)
    assert counts(layout, state) == {"vm0": 1}
    assert not any(state[layout.inode[0] : layout.slot[0]])


def test_a_file_alone_is_not_handed_on(linux: Exploration) -> None:
    story = linux.stories["handed-on"]
    assert kinds(story) == [Kind.CREATE_VM, Kind.CREATE_FILE, Kind.PRESERVE_FILE, Kind.KEXEC]
    assert story.steps[-1].outcome == "ENOENT"
    # The VM lives, as the file keeps it; but with its descriptor went what could be preserved.
    _, state = do(VM, FILE, Operation(Kind.CLOSE_VM))
    assert Kind.PRESERVE_VM not in possible(state)
    assert Kind.PRESERVE_FILE in possible(state)


def test_a_guest_stops_at_the_first_page_that_is_not_there(linux: Exploration) -> None:
    story = linux.stories["guests-go-on"]
    assert len(story.steps) == 5
    assert story.steps[-1].outcome == "EPERM"


def test_linux_hands_on_memory_with_its_virtual_machine(linux: Exploration) -> None:
    assert set(linux.stories) == {
        "closing-is-harmless", "file-does-not-pin-vm", "handed-on", "guests-go-on", "reboot",
    }  # fmt: skip
    reboot = linux.stories["reboot"]
    assert len(reboot.steps) == 11
    assert Kind.KEXEC in kinds(reboot)


def test_a_record_without_its_virtual_machine_leaves_memory_that_is_nobodys() -> None:
    broken = LINUX.without(Event.HAND_ON_VM, Effect.RECORD_KEEPS_MACHINE)
    found = explore(broken, UPDATED, intended=LINUX)
    assert {OUTLIVES, "contents-stay"} <= set(found.stories)


def test_zeroing_at_the_unbinding_is_no_remedy_for_a_kexec() -> None:
    """The mail's design has no VM to put into a file's record."""
    story = explore(ZEROING, UPDATED).stories[OUTLIVES]
    assert kinds(story)[-2:] == [Kind.PRESERVE_FILE, Kind.KEXEC]
    assert story.steps[-1].outcome == "ok"
    assert len(story.steps) == 6


@pytest.mark.parametrize("design", [LINUX, MAIL], ids=lambda d: d.name)
@pytest.mark.parametrize("universe", [UPDATED, TWO_VMS], ids=lambda u: u.name)
def test_renaming_is_sound_over_updates(design: Design, universe: Universe) -> None:
    assert_states_called_one_behave_as_one(design, universe, 400)
