# SPDX-License-Identifier: MIT
"""The model and the real KVM side by side; and that a model that is wrong is found to be."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.errors import UsageError
from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.adapting import adapted
from pyvmm.lifetime.designs import Design
from pyvmm.lifetime.operations import Kind, Operation
from pyvmm.lifetime.scenarios import SCENARIOS, Scenario
from pyvmm.lifetime.tour import tour
from pyvmm.lifetime.universe import FAMILY, SMALL, STANDARD, VCPUS, Feature, Universe
from pyvmm.replay import debugfs
from pyvmm.replay import liveness as liveness_module
from pyvmm.replay.differences import Difference
from pyvmm.replay.executor import Replayer
from pyvmm.replay.host import kinds_of
from pyvmm.replay.liveness import Liveness, observe
from pyvmm.replay.means import ON_NO_KERNEL, Means
from pyvmm.replay.memory_kind import PRIVATE, MemoryKind
from pyvmm.replay.plan import Comparison, shortest_stories
from pyvmm.rules.lifecycle import Effect, Event
from tests.conftest import REQUIRED
from tests.replay.conftest import fitting

pytestmark = pytest.mark.kvm

VM, FILE, BIND = Operation(Kind.CREATE_VM), Operation(Kind.CREATE_FILE), Operation(Kind.BIND)
TWO_FILES = Universe("two files", 2, 2, 1, 1, processes=1, handles=1)
UNIVERSES_WITH = {
    Feature.LINKS: replace(SMALL, links=True),
    Feature.MOVES: replace(SMALL, moves=True),
    Feature.UPDATES: replace(SMALL, updates=True),
    Feature.SUCCESSORS: replace(SMALL, updates=True),
}
CLOSE_VM, CLOSE_FILE = Operation(Kind.CLOSE_VM), Operation(Kind.CLOSE_FILE)
READ, WRITE = Operation(Kind.GUEST_READ), Operation(Kind.GUEST_WRITE)


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
    kind = kinds_of(system)[0]
    with Replayer(system, design, fitting(universe, kind), lives, Means(kind)) as replayer:
        return replayer.replay(operations)


@pytest.mark.slow
@pytest.mark.parametrize("universe", [SMALL, VCPUS], ids=lambda u: u.name)
def test_every_transition_of_a_small_universe(
    system: System, lives: Liveness, universe: Universe
) -> None:
    assert lives.fd >= 0
    with Comparison(system, lambda *_: None) as comparison:
        # In the lab, Python takes 30 times as long.
        most = 100 if "private" in REQUIRED and universe is VCPUS else None
        result = comparison.cover(universe, most)
        private = comparison.means.kind.is_private
    assert not result.differences, "\n".join(result.differences[0].lines())
    assert (result.taken == result.transitions) is (most is None)
    assert result.tally.lives > 100
    assert result.tally.contents > 100 or private
    assert (result.tally.kinds["close_vcpu"] > 40) == bool(universe.vcpus)


@pytest.mark.slow
@pytest.mark.parametrize("universe", [TWO_FILES, FAMILY], ids=lambda u: u.name)
def test_many_sequences_of_larger_universes(
    system: System, linux: Design, lives: Liveness, means: Means, universe: Universe
) -> None:
    # Not the standard one: in the lab, Python takes 30 times as long to find its sequences.
    fitted = fitting(universe, means.kind)
    with Replayer(system, linux, fitted, lives, means) as replayer:
        for number, sequence in enumerate(tour(linux, fitted).sequences()):
            difference = replayer.replay(sequence)
            assert difference is None, "\n".join(difference.lines())
            if number == 60:
                break
    if universe is FAMILY:
        assert replayer.tally.kinds["fork"] > 5
        assert replayer.tally.foreign > 0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_scenarios(system: System, linux: Design, lives: Liveness, scenario: Scenario) -> None:
    universe = fitting(scenario.universe, kinds_of(system)[0])
    story = adapted(scenario.operations, linux, universe)
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
    system: System, linux: Design, lives: Liveness, kind: MemoryKind
) -> None:
    if kind.is_private:
        pytest.skip("this KVM has no guest_memfd that the host can map")
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


# vCPUs


def test_a_guest_runs_on_without_a_descriptor_of_its_vm(
    system: System, linux: Design, lives: Liveness
) -> None:
    vcpu, close_vcpu = Operation(Kind.CREATE_VCPU), Operation(Kind.CLOSE_VCPU)
    operations = (VM, vcpu, FILE, BIND, CLOSE_VM, WRITE, READ, CLOSE_FILE, READ, close_vcpu)
    assert replay(system, linux, VCPUS, lives, *operations) is None
    fitted = fitting(VCPUS, kinds_of(system)[0])
    last = adapted(operations, linux, fitted).steps[-2:]
    assert [step.outcome for step in last] == ["EFAULT", "ok"]


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


def test_only_the_process_that_made_a_vm_can_use_it(
    system: System, linux: Design, means: Means
) -> None:
    operations = (VM, FILE, Operation(Kind.FORK), Operation(Kind.EXIT), BIND)
    with Replayer(system, linux, fitting(FAMILY, means.kind), None, means) as replayer:
        assert replayer.replay(operations) is None
        assert replayer.tally.foreign == 1


@pytest.mark.parametrize("feature", ON_NO_KERNEL, ids=lambda feature: feature.value)
def test_what_no_kernel_offers_is_not_replayed(
    system: System, linux: Design, means: Means, feature: Feature
) -> None:
    universe = fitting(UNIVERSES_WITH[feature], means.kind)
    asked = next(each for each in universe.features if each in ON_NO_KERNEL)
    with pytest.raises(UsageError, match=re.escape(ON_NO_KERNEL[asked])):
        Replayer(system, linux, universe, None, means)


def test_mappings_are_not_replayed_where_memory_is_private(system: System, linux: Design) -> None:
    with pytest.raises(UsageError, match="cannot map"):
        Replayer(system, linux, SMALL, None, Means(PRIVATE))


def test_without_debugfs_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(debugfs, "MOUNTED", "/nowhere")
    monkeypatch.setattr(debugfs, "_mount_for_us", refuse)
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
