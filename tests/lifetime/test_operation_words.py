# SPDX-License-Identifier: MIT
"""Operations as words, and what a single step of a design violates."""

from __future__ import annotations

import pytest

from pyvmm.errors import UsageError
from pyvmm.lifetime.designs import STANDARD_DESIGNS, Design
from pyvmm.lifetime.explorer import explore
from pyvmm.lifetime.findings import Findings
from pyvmm.lifetime.operation_words import operation_words, parse_operation
from pyvmm.lifetime.operations import Kind, Operation, operations
from pyvmm.lifetime.properties import BY_NAME, Role, shortfall
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import SMALL, UNIVERSES


def test_words_give_every_operation_of_every_universe_back() -> None:
    kinds = set()
    for universe in UNIVERSES.values():
        for for_no_vm in (False, True):
            for operation in operations(universe, for_no_vm):
                assert parse_operation(operation_words(operation)) == operation
                kinds.add(operation.kind)
    assert kinds == set(Kind)


def test_words() -> None:
    assert operation_words(Operation(Kind.CREATE_VM)) == "create-vm"
    assert operation_words(Operation(Kind.BIND, vm=1, slot=1)) == "bind:vm=1,slot=1"
    assert parse_operation("guest-write:slot=0") == Operation(Kind.GUEST_WRITE)
    assert parse_operation("close-file:file=1") == Operation(Kind.CLOSE_FILE, file=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "there is no ''; there are create-vm,"),
        ("crate-vm", "did you mean create-vm?"),
        ("close-vm:slot=1", "close-vm has no 'slot'; as close-vm:process=0,vm=0"),
        ("bind:", "bind has no ''; as bind:process=0,vm=0,file=0,slot=0,page=0"),
        ("bind:vm=1,vm=1", "bind has its vm twice"),
        ("bind:vm", "'' is no number of a vm"),
        ("bind:vm=-1", "'-1' is no number"),
        ("bind:vm=256", "'256' is no number"),
        ("bind:vm=\u0663", "is no number"),
        ("kexec:vm=1", "kexec has no 'vm'; as kexec"),
    ],
)
def test_mistakes_are_named(words: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_operation(words)
    assert said in str(caught.value)


@pytest.mark.parametrize("design", STANDARD_DESIGNS, ids=lambda one: one.name)
def test_the_last_step_of_a_shortest_story_is_found_to_violate_its_property(
    design: Design,
) -> None:
    system = TransitionSystem(design, SMALL)
    findings = Findings(system)
    stories = explore(design, SMALL).stories
    assert stories
    for name, story in stories.items():
        state, found = system.initial, []
        for told in story.steps:
            assert name not in found, "a shortest story ends with what it shows"
            step = system.step(state, told.operation)
            found = [each.name for each in findings.of(state, told.operation, step)]
            state = step.state
        assert name in found


def test_what_does_not_hold_is_a_fault_only_where_it_is_demanded() -> None:
    faults = {name for name in BY_NAME if shortfall(name).is_fault}
    assert faults == {
        name for name, each in BY_NAME.items() if each.role in {Role.INVARIANT, Role.OWNERSHIP}
    }
    assert str(shortfall("file-does-not-pin-vm")) == (
        "is not as the mail wishes, file-does-not-pin-vm: An open file never keeps a VM alive."
    )
    assert str(shortfall("memory-dies-with-its-vm")).startswith(
        "where memory belongs to a virtual machine, violates memory-dies-with-its-vm: "
    )
    assert str(shortfall("of another version")) == "of another version"
