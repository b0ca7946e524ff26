# SPDX-License-Identifier: MIT
"""The sequential exploration: what holds, what does not, and that every effect is needed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from pyvmm.errors import InternalError, UsageError
from pyvmm.lifetime.canonical import Canonical
from pyvmm.lifetime.checks import World
from pyvmm.lifetime.designs import (
    STANDARD_DESIGNS,
    V11,
    Design,
    Remedy,
    file_pins_vm,
    file_pins_vm_moving_files,
    file_pins_vm_with_any_link,
    memslot_pins_file,
)
from pyvmm.lifetime.explorer import Exploration, explore
from pyvmm.lifetime.holdings import Why, counts, holdings
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.properties import (
    ALL,
    BY_NAME,
    INVARIANTS,
    OF_FEATURES,
    Role,
    properties_of,
)
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import (
    ERRORS,
    FAILURES,
    FAMILY,
    LINKED,
    MOVED,
    SMALL,
    STANDARD,
    UNIVERSES,
    VCPUS,
    Universe,
)
from pyvmm.rules.lifecycle import MACHINE_EFFECTS, Effect, Event

from .gathered import WHOLE

LINUX, LINUX_ANY_LINK = file_pins_vm(), file_pins_vm_with_any_link()
TWO_SLOTS = Universe("two slots", vms=2, files=1, slots=2, pages=2, processes=1, handles=1)

OUTLIVES = "memory-dies-with-its-vm"

VIOLATED = {
    "file-pins-vm": {"closing-is-harmless", "file-does-not-pin-vm"},
    "memslot-pins-file": {"contents-stay", "hand-over", OUTLIVES},
    "memslot-pins-file + never-rebind": {"contents-stay", "hand-over", "nothing-dangles", OUTLIVES},
    "memslot-pins-file + zero-at-unbinding": {"slots-keep-contents"},
    "memslot-pins-file + zero-at-rebinding": {"cleared-by-owner", OUTLIVES},
    "memslot-pins-file + owner-in-inode": {OUTLIVES},
    "file-pins-vm + any-link": {"closing-is-harmless", "file-does-not-pin-vm"},
}
VIOLATED_WHERE_LINKED: dict[str, set[str]] = {
    # A binding zeroes by what its own file is bound to, and a linked inode has two.
    "memslot-pins-file + zero-at-unbinding": {"contents-stay", "hand-over"},
    "memslot-pins-file + zero-at-rebinding": {"contents-stay"},
    # Who links for anybody, gives memory to anybody.
    "file-pins-vm + any-link": {"contents-stay", "hand-over", OUTLIVES},
}
"""Beyond what is violated without links; "shared-within" is possible everywhere."""


def named(design: Design) -> str:
    return design.name


_EXPLORED: dict[tuple[str, Universe], tuple[Design, Exploration]] = {}


def clean(design: Design, universe: Universe) -> Exploration:
    """The exploration of a design as it is: several tests look at the same ones."""
    if universe == STANDARD:
        return WHOLE.explored(design)
    key = (design.name, universe)
    if key not in _EXPLORED:
        _EXPLORED[key] = (design, explore(design, universe))
    of, found = _EXPLORED[key]
    assert of == design, "two designs with one name"
    return found


@pytest.mark.parametrize("design", STANDARD_DESIGNS, ids=named)
@pytest.mark.parametrize("universe", [SMALL, TWO_SLOTS], ids=lambda u: u.name)
def test_what_holds(design: Design, universe: Universe) -> None:
    found = clean(design, universe)
    assert set(found.stories) == VIOLATED[design.name]
    assert found.states > 30
    assert sum(found.operations.values()) == found.transitions


@pytest.mark.slow
@pytest.mark.parametrize("design", STANDARD_DESIGNS, ids=named)
@pytest.mark.parametrize("universe", [STANDARD, FAMILY, LINKED], ids=lambda u: u.name)
def test_what_holds_in_larger_universes(design: Design, universe: Universe) -> None:
    found = clean(design, universe)
    expected = set(VIOLATED[design.name])
    if universe is LINKED:
        expected |= {"shared-within"} | VIOLATED_WHERE_LINKED.get(design.name, set())
    if universe is FAMILY and "contents-stay" in expected:
        # One VM at a time: the address comes back.
        assert "a VM that is freed" in found.stories["contents-stay"].ending
    assert set(found.stories) == expected


def test_memory_outlives_its_vm_in_five_steps() -> None:
    for design in STANDARD_DESIGNS:
        story = clean(design, SMALL).stories.get(OUTLIVES)
        if OUTLIVES not in VIOLATED[design.name]:
            assert story is None
            continue
        assert story is not None
        assert [step.operation.kind for step in story.steps] == [
            Kind.CREATE_UNOWNED, Kind.CREATE_VM, Kind.BIND, Kind.GUEST_WRITE, Kind.CLOSE_VM,
        ]  # fmt: skip
        assert story.ending == "page0 of inode0 still holds what a VM that is freed wrote"


TWO_OF_ONE = Universe("two of one", 2, 2, 1, 1, 1, 1, links=True)


@pytest.mark.slow
def test_a_link_within_one_virtual_machine_keeps_what_one_for_a_stranger_breaks() -> None:
    within, any_link = (explore(design, TWO_OF_ONE) for design in (LINUX, LINUX_ANY_LINK))
    assert within.holds("contents-stay")
    assert within.holds(OUTLIVES)
    assert not within.holds("shared-within")
    assert not any_link.holds("contents-stay")
    assert not any_link.holds(OUTLIVES)
    stranger = any_link.stories["contents-stay"]
    assert Kind.JOIN_VM not in {step.operation.kind for step in stranger.steps}


def test_a_link_is_for_another_vm_of_the_same_virtual_machine() -> None:
    both = (Operation(Kind.CREATE_VM), Operation(Kind.CREATE_FILE), Operation(Kind.CREATE_VM, vm=1))
    for design, stranger in ((LINUX, "EINVAL"), (LINUX_ANY_LINK, "ok")):
        system = TransitionSystem(design, TWO_OF_ONE)
        state = system.initial
        for operation in both:
            state = system.step(state, operation).state
        outcomes = [system.step(state, Operation(Kind.LINK, vm=v)).outcome for v in (0, 1)]
        assert outcomes == ["EINVAL", stranger]


def test_a_virtual_machine_ends_with_its_last_vm() -> None:
    system = TransitionSystem(memslot_pins_file(), TWO_OF_ONE)
    check = BY_NAME[OUTLIVES].state
    assert check is not None
    world = World.of(system.design.lifecycle, system.layout, system.design.lifecycle)
    state = system.initial
    for kind, numbers in (
        (Kind.CREATE_VM, {}), (Kind.JOIN_VM, {"vm": 1}), (Kind.CREATE_UNOWNED, {}),
        (Kind.BIND, {}), (Kind.GUEST_WRITE, {}), (Kind.CLOSE_VM, {}),
    ):  # fmt: skip
        state = system.step(state, Operation(kind, **numbers)).state
    assert check(world, state) is None, "a helper holds the VM that has the virtual machine"
    state = system.step(state, Operation(Kind.CLOSE_VM, vm=1)).state
    assert check(world, state) is not None
    # The number of the first is free again: a new VM there is another virtual system.
    state = system.step(state, Operation(Kind.CREATE_VM)).state
    assert check(world, state) is not None


def test_v11_and_mainline_differ_in_errnos_only() -> None:
    ours, theirs = explore(V11, TWO_SLOTS), clean(file_pins_vm(), TWO_SLOTS)
    assert (ours.states, ours.transitions) == (theirs.states, theirs.transitions)
    assert set(ours.stories) == set(theirs.stories)
    assert (Kind.BIND, "EEXIST") in theirs.operations
    assert (Kind.BIND, "EEXIST") not in ours.operations


@pytest.mark.slow
def test_every_kind_of_operation_happens() -> None:
    done: set[Kind] = set()
    for design in (file_pins_vm(), memslot_pins_file()):
        for universe in (SMALL, FAMILY):
            done |= {kind for kind, _ in clean(design, universe).operations}
        tiny = Universe("tiny", 2, 2, 1, 1, 1, 1, links=True, moves=True)
        for universe in (tiny, VCPUS, ERRORS, FAILURES, TINY_UPDATED):
            done |= {kind for kind, _ in clean(design, universe).operations}
    assert done == set(Kind)


SEEDED = [
    (design, event, effect)
    for design in (*STANDARD_DESIGNS,)
    for event, effect in design.lifecycle.rules()
    # Where records have no VM, memory is nobody's after the kexec whatever a VM's record keeps.
    if event is not Event.HAND_ON_VM or not design.system_creation
] + [(file_pins_vm_moving_files(), Event.MOVE_CONTEXT, Effect.FILES_FOLLOW)]


TINY_MOVED = Universe("tiny moved", 2, 1, 1, 1, 1, 1, links=True, moves=True, host_maps=False)
TINY_UPDATED = Universe("tiny updated", 1, 1, 1, 1, 1, 1, updates=True)
THREE_VMS = replace(TINY_MOVED, name="three", vms=3)
"""A VM, its helper, and who takes the virtual machine over."""


_WHERE_IT_HAPPENS = {
    Event.LINK_FILE: TWO_OF_ONE,
    Event.PAGE_ERROR: ERRORS,
    Event.BIND_FAILS: FAILURES,
    Event.PRESERVE_VM: TINY_UPDATED,
    Event.PRESERVE_FILE: TINY_UPDATED,
    Event.HAND_ON_VM: TINY_UPDATED,
}
"""Universes of events that happen only where there is a feature."""


def _where_it_happens(event: Event, effect: Effect) -> Universe:
    if effect is Effect.HELPERS_FOLLOW:
        return THREE_VMS
    usual = TINY_MOVED if effect in MACHINE_EFFECTS else TWO_SLOTS
    return _WHERE_IT_HAPPENS.get(event, usual)


@pytest.mark.parametrize(
    ("design", "event", "effect"),
    SEEDED,
    ids=[f"{d.name}-{event.name}-{effect.name}" for d, event, effect in SEEDED],
)
def test_an_effect_forgotten_is_found(design: Design, event: Event, effect: Effect) -> None:
    universe = _where_it_happens(event, effect)
    roles = (Role.INVARIANT, Role.OWNERSHIP, Role.PRICE)
    wanted = [each for each in properties_of(universe) if each.role in roles]
    known = clean(design, universe).stories
    properties = [each for each in wanted if each.name not in known]
    broken = design.without(event, effect)
    found = explore(broken, universe, properties=properties, intended=design, stop_early=True)
    assert found.stories, f"nobody notices {broken.name}"


@pytest.mark.parametrize("design", STANDARD_DESIGNS, ids=named)
def test_stories_replay_and_survive_a_file(design: Design) -> None:
    for story in clean(design, TWO_SLOTS).stories.values():
        assert Story.from_json(story.to_json()) == story
        system = TransitionSystem(design, story.universe)
        state = system.initial
        for told in story.steps:
            step = system.step(state, told.operation)
            assert (step.outcome, step.faults) == (told.outcome, told.faults)
            state = step.state
        assert len(story.lines()) == len(story.steps) + 1
        assert story.ending in story.lines()[-1]


def test_a_story_reads_like_one() -> None:
    story = explore(file_pins_vm(), SMALL).stories["closing-is-harmless"]
    assert [line.strip() for line in story.lines()] == [
        "1. parent: create vm0",
        "2. parent: create file0 for vm0",
        "3. parent: bind slot0 of vm0 to page0 of file0",
        "4. parent: close a descriptor of file0",
        "=> vm0 still runs, but no longer reaches what it reached before",
    ]


def test_the_shortest_story_is_the_shortest() -> None:
    """Depth-first search up to one step less finds nothing."""
    design = memslot_pins_file()
    found = explore(design, SMALL)
    story = found.stories["contents-stay"]
    system, check = TransitionSystem(design, SMALL), BY_NAME["contents-stay"].state
    assert check is not None
    world_check = check
    world = World.of(design.lifecycle, system.layout, design.lifecycle)
    reached = {system.initial}
    for length in range(len(story.steps)):
        assert not any(world_check(world, state) for state in reached), length
        reached = {step.state for state in reached for _, step in system.steps(state)}
    assert any(world_check(world, state) for state in reached)


RENAMED = {
    "plain": TWO_SLOTS,
    "processes": replace(TWO_SLOTS, processes=2, vcpus=2),
    "pages": replace(TWO_SLOTS, vcpus=1, types=2, errors=True, failures=True),
    "linked": LINKED,
    "moved": MOVED,
    "records": replace(TWO_SLOTS, files=2, updates=True),
}


@pytest.mark.slow
@pytest.mark.parametrize("universe", RENAMED.values(), ids=RENAMED)
def test_renaming_is_sound(universe: Universe) -> None:
    """States that are called one behave as one: random walks meet only canonical states."""
    system = TransitionSystem(file_pins_vm(), universe)
    canonical = Canonical(system.layout)
    choose = random.Random(6)
    state = system.initial
    for _ in range(700):
        one = canonical.of(state)
        assert canonical.of(one) == one
        steps = system.steps(state)
        ours, theirs = (
            {
                (operation.kind, canonical.of(step.state))
                for operation, step in each
                if not step.outcome.startswith("vm")
            }
            for each in (steps, system.steps(one))
        )
        assert ours == theirs
        state = choose.choice(steps)[1].state


def test_holdings_explain_the_counts() -> None:
    for design in (file_pins_vm(), memslot_pins_file()):
        system = TransitionSystem(design, TWO_SLOTS)
        state = system.initial
        for kind in (Kind.CREATE_VM, None, Kind.BIND, Kind.MAP, Kind.GUEST_WRITE):
            creating = (Kind.CREATE_FILE, Kind.CREATE_UNOWNED)
            state = next(
                step.state
                for op, step in system.steps(state)
                if op.kind is kind or (kind is None and op.kind in creating)
            )
        edges = holdings(design.lifecycle, system.layout, state)
        for name, count in counts(system.layout, state).items():
            assert sum(edge.held == name and edge.why.pins for edge in edges) == count
        assert {Why.MAPPING, Why.BINDING, Why.GUEST_MAPPING, Why.INODE} <= {e.why for e in edges}
        assert str(edges[0]) == "process0 ==> vm0  (descriptor)"


def test_progress_is_told_and_questions_are_checked() -> None:
    told: list[tuple[int, int]] = []
    found: Exploration = explore(
        file_pins_vm(), SMALL, properties=INVARIANTS, progress=lambda *each: told.append(each)
    )
    assert told
    assert found.holds("contents-stay")
    with pytest.raises(InternalError):
        found.holds("hand-over")


def test_bad_stories_and_impossible_operations_are_refused() -> None:
    story = explore(file_pins_vm(), SMALL).stories["file-does-not-pin-vm"].to_json()
    bad: list[object] = [None, [], {}, {**story, "format": "2"}]
    for broken in [*bad, {**story, "steps": [{"outcome": "ok"}]}]:
        with pytest.raises(UsageError):
            Story.from_json(broken)
    with pytest.raises(UsageError, match="cannot read a story: it has no 'format'; give a file"):
        Story.from_json({})
    with pytest.raises(ValueError, match="no number"):
        Operation.from_json({**Operation(Kind.FORK).to_json(), "vm": -1})
    system = TransitionSystem(file_pins_vm(), SMALL)
    with pytest.raises(UsageError):
        system.step(system.initial, Operation(Kind.GUEST_READ))


def test_properties_and_universes_have_names() -> None:
    assert len(BY_NAME) == len(ALL) + len(OF_FEATURES)
    assert set(properties_of(LINKED)) - set(ALL) == {
        BY_NAME["shared-within"],
        BY_NAME["helper-dies-first"],
    }
    assert all(each.needs is not None for each in OF_FEATURES)
    assert properties_of(STANDARD) == ALL
    assert {each.role for each in BY_NAME.values()} == set(Role)
    assert all(each.sentence.endswith(".") for each in ALL)
    assert all(name == universe.name and str(universe) for name, universe in UNIVERSES.items())
    assert len({design.name for design in STANDARD_DESIGNS}) == 2 + len(Remedy)
