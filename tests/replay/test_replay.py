# SPDX-License-Identifier: MIT
"""The model and the real KVM side by side; and that a model that is wrong is found to be."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.adapting import adapted
from pyvmm.lifetime.designs import Design, file_pins_vm
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.scenarios import SCENARIOS, Scenario
from pyvmm.lifetime.tour import tour
from pyvmm.lifetime.universe import FAMILY, LINKED, SMALL, STANDARD, Universe
from pyvmm.replay import liveness as liveness_module
from pyvmm.replay.executor import Difference, Replayer
from pyvmm.replay.host import can_name, profile_of
from pyvmm.replay.liveness import Liveness, observe
from pyvmm.replay.plan import Comparison, shortest_stories
from pyvmm.rules.lifecycle import Effect, Event

pytestmark = pytest.mark.kvm

VM, FILE, BIND = Operation(Kind.CREATE_VM), Operation(Kind.CREATE_FILE), Operation(Kind.BIND)
TWO_FILES = Universe("two files", 2, 2, 1, 1, processes=1, handles=1)
CLOSE_VM, CLOSE_FILE = Operation(Kind.CLOSE_VM), Operation(Kind.CLOSE_FILE)
READ, WRITE = Operation(Kind.GUEST_READ), Operation(Kind.GUEST_WRITE)


@pytest.fixture(scope="module")
def system() -> Iterator[System]:
    with System() as made:
        try:
            profile_of(made)
        except HostLacksError as error:
            pytest.skip(str(error))
        yield made


@pytest.fixture
def lives(system: System) -> Iterator[Liveness]:
    seen, why = observe()
    if seen is None or not can_name(system, seen):
        pytest.skip(f"VMs cannot be observed: {why}")
    with seen:
        yield seen


@pytest.fixture
def linux(system: System) -> Design:
    return replace(file_pins_vm(), profile=profile_of(system))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    children = children_now()
    yield
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 1  # the guests' code is kept
    assert not children_now() - children


def children_now() -> set[str]:
    """Of this thread, where the kernel tells (CONFIG_PROC_CHILDREN)."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(children.read_text().split()) if children.exists() else set()


def replay(
    system: System,
    design: Design,
    universe: Universe,
    lives: Liveness | None,
    *operations: Operation,
) -> Difference | None:
    with Replayer(system, design, universe, lives) as replayer:
        return replayer.replay(operations)


@pytest.mark.slow
def test_every_transition_of_the_small_universe(
    system: System, linux: Design, lives: Liveness
) -> None:
    way = tour(linux, SMALL)
    with Replayer(system, linux, SMALL, lives) as replayer:
        for sequence in way.sequences():
            difference = replayer.replay(sequence)
            assert difference is None, "\n".join(difference.lines())
    assert way.transitions == 0
    assert replayer.tally.lives > 100
    assert replayer.tally.contents > 100


@pytest.mark.slow
@pytest.mark.parametrize("universe", [TWO_FILES, FAMILY], ids=lambda u: u.name)
def test_many_sequences_of_larger_universes(
    system: System, linux: Design, lives: Liveness, universe: Universe
) -> None:
    # Not the standard one: in the lab, Python takes 30 times as long to find its sequences.
    with Replayer(system, linux, universe, lives) as replayer:
        for number, sequence in enumerate(tour(linux, universe).sequences()):
            difference = replayer.replay(sequence)
            assert difference is None, "\n".join(difference.lines())
            if number == 60:
                break
    if universe is FAMILY:
        assert replayer.tally.kinds["fork"] > 5
        assert replayer.tally.foreign > 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_scenarios(system: System, linux: Design, lives: Liveness, scenario: Scenario) -> None:
    story = adapted(scenario.operations, linux, scenario.universe)
    operations = [step.operation for step in story.steps]
    difference = replay(system, linux, scenario.universe, lives, *operations)
    assert difference is None, "\n".join(difference.lines())


def test_shortest_stories_of_every_design(system: System) -> None:
    stories = shortest_stories([SMALL])
    assert {story.about for story in stories} >= {"closing-is-harmless", "contents-stay"}
    with Comparison(system, lambda *_: None) as comparison:
        results = comparison.follow("stories", stories)
    assert [result.differences for result in results] == [[]]
    assert results[0].tally.steps > 30


# A model that is wrong


WRONG = (
    (Event.RELEASE_FILE, Effect.FILE_DROPS_VM, (VM, FILE, CLOSE_FILE, CLOSE_VM), 4, "vm0"),
    (Event.CREATE_FILE, Effect.FILE_TAKES_VM, (VM, FILE, CLOSE_VM), 3, "vm0"),
    (Event.BIND, Effect.FILE_NAMES_SLOT, (VM, FILE, BIND, Operation(Kind.BIND, slot=1)), 4, ""),
    (Event.RELEASE_FILE, Effect.ZAP_BOUND_SLOTS, (VM, FILE, BIND, READ, CLOSE_FILE, READ), 6, ""),
    (
        Event.PUNCH_HOLE,
        Effect.FREE_PUNCHED_PAGES,
        (VM, FILE, BIND, WRITE, Operation(Kind.PUNCH), READ),
        6,
        "",
    ),
)


@pytest.mark.parametrize(("event", "effect", "operations", "step", "what"), WRONG)
def test_a_forgotten_effect_shows_against_the_kernel(
    system: System,
    linux: Design,
    lives: Liveness,
    monkeypatch: pytest.MonkeyPatch,
    event: Event,
    effect: Effect,
    operations: tuple[Operation, ...],
    step: int,
    what: str,
) -> None:
    assert replay(system, linux, STANDARD, lives, *operations) is None
    monkeypatch.setattr(liveness_module, "PATIENCE", 0.1)
    difference = replay(system, linux.without(event, effect), STANDARD, lives, *operations)
    assert difference is not None
    assert (difference.step, difference.what) == (step, what or "answer")
    marked = [line for line in difference.lines() if line.startswith(">>")]
    assert marked == [f">>{step:3}. {operations[step - 1]}"]


def test_contents_that_the_host_maps_are_compared(
    system: System, linux: Design, lives: Liveness
) -> None:
    # Nothing reads after the hole is punched: the comparison of mapped pages must see it.
    wrong = linux.without(Event.PUNCH_HOLE, Effect.FREE_PUNCHED_PAGES)
    operations = (
        VM,
        FILE,
        Operation(Kind.MAP),
        BIND,
        WRITE,
        Operation(Kind.PUNCH),
        Operation(Kind.DUP_VM),
    )
    difference = replay(system, wrong, STANDARD, lives, *operations)
    assert difference is not None
    assert difference.what == "page0 of file0, mapped"
    assert (difference.expected, difference.seen) == ("vm0's page", "zeroes")


def test_another_errno_is_a_difference(system: System, linux: Design) -> None:
    other = errno.EEXIST if linux.profile.bound_twice == errno.EINVAL else errno.EINVAL
    wrong = replace(linux, profile=replace(linux.profile, bound_twice=other))
    twice = (VM, FILE, BIND, Operation(Kind.BIND, slot=1))
    assert replay(system, linux, STANDARD, None, *twice) is None
    difference = replay(system, wrong, STANDARD, None, *twice)
    assert difference is not None
    assert difference.step == 4
    assert difference.expected == errno.errorcode[other]


# Processes


def test_a_child_that_inherits_the_file_keeps_the_vm(
    system: System, linux: Design, lives: Liveness
) -> None:
    child_exits = Operation(Kind.EXIT, 1)
    operations = (VM, FILE, Operation(Kind.FORK), Operation(Kind.EXIT), child_exits)
    assert replay(system, linux, FAMILY, lives, *operations) is None
    forgets = linux.without(Event.RELEASE_FILE, Effect.FILE_DROPS_VM)
    difference = replay(system, forgets, FAMILY, lives, *operations)
    assert difference is not None
    assert (difference.step, difference.seen) == (5, "freed")


def test_only_the_process_that_made_a_vm_can_use_it(system: System, linux: Design) -> None:
    operations = (VM, FILE, Operation(Kind.FORK), Operation(Kind.EXIT), BIND)
    with Replayer(system, linux, FAMILY, None) as replayer:
        assert replayer.replay(operations) is None
        assert replayer.tally.foreign == 1


def test_linked_files_are_not_replayed(system: System, linux: Design) -> None:
    with pytest.raises(UsageError, match="link"):
        Replayer(system, linux, LINKED, None)


def test_without_debugfs_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(liveness_module, "MOUNTED", "/nowhere/kvm")
    monkeypatch.setattr(liveness_module, "_mount_for_us", refuse)
    seen, why = observe()
    assert seen is None
    assert why == (
        "/nowhere/kvm: No such file or directory; debugfs cannot be mounted: "
        "Operation not permitted"
    )


def test_what_cannot_be_attempted_is_refused(system: System, linux: Design) -> None:
    with pytest.raises(UsageError):
        replay(system, linux, STANDARD, None, FILE)
    assert not adapted((FILE,), linux, STANDARD).steps
