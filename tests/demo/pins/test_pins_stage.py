# SPDX-License-Identifier: MIT
"""The stage for who pins whom: on this machine's KVM, and by the model of lifetimes alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from dataclasses import replace

import pytest
import trio

from pyvmm.demo.stage import pins_on_host
from pyvmm.demo.stage.stage import open_stage
from pyvmm.demo.telling.acts import Act, End, Look, MakeVm, Operate
from pyvmm.demo.telling.chapter import (
    Answers,
    Fact,
    IsAlive,
    Need,
    Setup,
    StageKind,
    Violates,
    Worked,
    is_true,
)
from pyvmm.demo.telling.outcomes import Observed, Outcome, Staged, StageHost
from pyvmm.demo.telling.puzzles import scenario, shortest_way
from pyvmm.errors import HostLacksError, UsageError
from pyvmm.hosts.kvm import unowned_files
from pyvmm.hosts.kvm.system import System
from pyvmm.lifetime.adapting import adapted, design_named
from pyvmm.lifetime.designs import STANDARD_DESIGNS, Remedy, memslot_pins_file
from pyvmm.lifetime.explorer import explore
from pyvmm.lifetime.graph import Graph, Mark, NodeKind
from pyvmm.lifetime.graph_of_scene import drawn_of, graph_of
from pyvmm.lifetime.holdings import Holding, Why
from pyvmm.lifetime.operation_words import parse_operation
from pyvmm.lifetime.properties import BY_NAME, Role
from pyvmm.lifetime.scenarios import SCENARIOS, Scenario
from pyvmm.lifetime.universe import SMALL
from pyvmm.replay.host import profile_of
from pyvmm.replay.memory_kind import MemoryKind
from pyvmm.rules.profile import Profile
from tests.replay.conftest import missing

LINUX, MAIL = "file-pins-vm", "memslot-pins-file"
NAMES = tuple(one.name for one in STANDARD_DESIGNS)
PINS = Setup(StageKind.PINS, designs=NAMES)
hosts = pytest.mark.parametrize(
    "host", [StageHost.MODEL, pytest.param(StageHost.KVM, marks=pytest.mark.kvm)]
)
BOUND = ("create-vm", "create-file", "bind", "guest-write")


@hosts
def test_a_guest_s_access_that_faults_is_explained(host: StageHost) -> None:
    outcomes = on_stage(
        host, (*BOUND, "close-file", "guest-read"), replace(PINS, designs=(LINUX,))
    )[1]
    assert outcomes[-1].errno == errno.EFAULT
    assert outcomes[-1].explained is not None
    assert outcomes[-1].explained.rule == "access-file-closed"
    assert outcomes[-1].explained.source == "kvm_gmem_get_pfn"
    assert all(one.explained is None for one in outcomes[:-1])


def on_stage(
    host: StageHost | None,
    acts: Iterable[Act | str],
    setup: Setup = PINS,
    needs: frozenset[Need] = frozenset(),
) -> tuple[Staged, list[Outcome]]:
    async def main() -> tuple[Staged, list[Outcome]]:
        async with open_stage(setup, needs, host) as stage:
            todo = [Operate(act) if isinstance(act, str) else act for act in acts]
            return stage.staged, [await stage.do(act) for act in todo]

    before = sorted(os.listdir("/proc/self/fd"))
    try:
        return trio.run(main)
    finally:
        # The code of the vCPUs that guests use is kept.
        assert len(os.listdir("/proc/self/fd")) <= len(before) + 1


def answers(outcome: Outcome) -> dict[str, str]:
    return {one.design: one.answer for one in outcome.answers}


def shape(graph: Graph) -> tuple[set[tuple[str, int | None]], set[tuple[object, int]]]:
    """Objects with their counts, and edges; a process without any is as good as none."""
    nodes = (one for one in graph.nodes if one.mark is not Mark.GONE)
    edges = (one for one in graph.edges if one.mark is not Mark.GONE)
    counts = {(one.name, one.references) for one in nodes if one.kind is not NodeKind.PROCESS}
    return counts, {(one.identity, one.times) for one in edges}


@hosts
@pytest.mark.parametrize(
    "told", [one for one in SCENARIOS if one.universe.processes == 1], ids=lambda one: one.name
)
def test_scenarios_have_the_graphs_that_the_designs_give_them(
    told: Scenario, host: StageHost
) -> None:
    staged, outcomes = on_stage(host, scenario(told.name))
    assert staged.host is (StageHost.KVM if host is StageHost.KVM else StageHost.MACHINE)
    compared = 0
    for name in NAMES:
        design = design_named(name)
        story = adapted(told.operations, design, replace(told.universe, secrets=4))
        expected = [shape(graph) for graph in drawn_of(story, design).graphs[1:]]
        shown = [shape(graph_of(dict(one.after.scenes)[name])) for one in outcomes]
        # A story ends where a design has no next step; the stage goes on.
        assert shown[: len(expected)] == expected
        compared += len(expected)
    assert compared > 3 * len(NAMES)
    assert all("differ" not in str(outcome.explained) for outcome in outcomes)


@pytest.mark.parametrize("name", NAMES)
def test_each_shortest_way_shows_what_it_is_a_way_to(name: str) -> None:
    for wrong in explore(design_named(name), SMALL).stories:
        way = shortest_way(name, wrong)
        _, outcomes = on_stage(StageHost.MODEL, way)
        shown = [is_true(Violates(name, wrong), one, Observed()) for one in outcomes]
        is_fault = BY_NAME[wrong].role is not Role.POSSIBILITY
        assert shown == [False] * (len(way) - 1) + [is_fault]
        told = [wrong in dict(one.after.scenes)[name].finding for one in outcomes]
        assert told == [False] * (len(way) - 1) + [True]
    with pytest.raises(UsageError, match="does not"):
        shortest_way(name, "mappings-have-backing")


@hosts
def test_the_mail_lets_a_vm_read_what_a_freed_one_wrote_and_linux_refuses(host: StageHost) -> None:
    *_, bound, read = on_stage(host, scenario("rebind-to-another-vm"))[1]
    assert bound.errno == errno.EINVAL
    assert bound.explained is not None
    assert bound.explained.rule
    assert bound.explained.source
    assert answers(bound)[MAIL] == "ok"
    assert answers(read)[MAIL] == "vm0's page"
    # Where no slot is, nothing can be read, and that is no success.
    assert answers(read)[LINUX] == ""
    assert read.explained is not None
    assert "not attempted" in read.explained.cause
    assert read.calls == ()
    assert not read.was_attempted
    assert not is_true(Worked(), read, Observed())
    assert bound.was_attempted
    facts: dict[Fact, bool] = {
        Answers(MAIL, "vm0's page"): True,
        Answers(MAIL, "zeroes"): False,
        Answers("no design", "zeroes"): False,
        IsAlive("vm0", True, MAIL): True,
        IsAlive("file1", False, LINUX): True,
        IsAlive("vm1", True, LINUX): True,
        IsAlive("vm1", False, LINUX): False,
        IsAlive("vm0", True, "no design"): False,
    }
    assert {fact: is_true(fact, read, Observed()) for fact in facts} == facts


@hosts
def test_a_file_keeps_its_vm_alive(host: StageHost) -> None:
    needs = frozenset({Need.LIVENESS})
    setup = replace(PINS, designs=(LINUX, MAIL))
    try:
        _, outcomes = on_stage(host, (*BOUND, "close-vm", "close-file"), setup, needs)
    except HostLacksError as error:
        missing(str(error))
    alive = [dict(one.after.alive)["vm 0"] for one in outcomes]
    assert alive == [True] * 5 + [False]
    assert [one.after.held for one in outcomes] == [
        ("vm 0",),
        *[("file 0", "vm 0")] * 3,
        ("file 0",),
        (),
    ]
    assert [one.after.bound for one in outcomes] == [(), (), *[((0, 0, 0),)] * 3, ()]
    assert is_true(IsAlive("vm 0", True), outcomes[4], Observed())
    assert is_true(IsAlive("vm0", False, MAIL), outcomes[4], Observed())


@pytest.mark.kvm
def test_the_calls_are_the_kernels_own_and_what_is_seen_is_marked() -> None:
    acts: list[Act | str] = [
        *BOUND,
        "dup-file",
        "map",
        "close-file",
        "close-vm",
        "host-read",
        "unmap",
        End(),
    ]
    _, outcomes = on_stage(StageHost.KVM, acts)
    by_act = dict(zip(map(str, acts), outcomes, strict=True))

    def calls(act: str) -> list[str]:
        return [one.request or one.name for one in by_act[act].calls]

    assert calls("create-vm") == ["KVM_CREATE_VM"]
    assert calls("create-file") == ["KVM_CREATE_GUEST_MEMFD"]
    assert calls("bind") == ["KVM_SET_USER_MEMORY_REGION2"]
    assert calls("dup-file") == ["F_DUPFD_CLOEXEC"]
    assert calls("map")[0] == "mmap"
    assert calls("close-file") == ["close"]
    assert calls("close-vm")[0] == "dup3"
    vm = by_act["create-vm"].calls[0].result
    (closing, *_) = by_act["close-vm"].calls
    assert closing.target == f"VM fd {vm}"
    assert {one.name: one.value for one in closing.given}["newfd"] == vm
    assert any("MmioWrite" in one for one in by_act["guest-write"].exits)
    assert by_act["host-read"].value == 1
    seen = dict(by_act["map"].after.scenes)[LINUX].seen
    assert Holding("process0", "vm0", Why.DESCRIPTOR) in seen
    assert Holding("process0", "file0", Why.MAPPING) in seen
    assert not [one for one in seen if isinstance(one, Holding) and one.holder != "process0"]
    assert dict(by_act["map"].after.scenes)[MAIL].seen == frozenset()
    assert outcomes[-1].after.held == ()


@pytest.mark.kvm
def test_a_difference_is_shown_and_ends_the_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(system: System, kind: MemoryKind) -> Profile:
        return replace(profile_of(system, kind), bound_twice=errno.EPERM)

    monkeypatch.setattr(pins_on_host, "profile_of", other)
    _, outcomes = on_stage(StageHost.KVM, [*BOUND, "bind:slot=1"])
    twice = outcomes[-1]
    assert twice.errno in {errno.EEXIST, errno.EINVAL}
    assert answers(twice)[LINUX] == twice.errno_name
    assert twice.explained is not None
    for said in (twice.explained.cause, dict(twice.after.scenes)[LINUX].finding):
        assert "the model has EPERM, the kernel E" in said
    with pytest.raises(UsageError, match="differ"):
        on_stage(StageHost.KVM, [*BOUND, "bind:slot=1", "close-vm"])


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (Operate("clsoe-vm"), "did you mean close-vm?"),
        (Operate("bind:slot=2"), "slot 0..1"),
        (Operate("fork"), "none of this stage's"),
        (Operate("link"), "none of this stage's"),
        (Operate("guest-read"), "cannot be attempted now"),
        (Operate("create-vm:vm=1"), "cannot be attempted now"),
        (MakeVm(0), "takes operations"),
    ],
)
def test_what_cannot_be_asked_changes_nothing(act: Act, said: str) -> None:
    async def main() -> None:
        async with open_stage(PINS, frozenset(), StageHost.MODEL) as stage:
            before = await stage.observe()
            with pytest.raises(UsageError) as caught:
                await stage.do(act)
            assert said in str(caught.value)
            assert await stage.observe() == before
            assert (await stage.do(Look())).after == before

    trio.run(main)


def test_every_stage_says_where_it_is() -> None:
    why = {
        host: on_stage(host, (), setup)[0].why
        for host, setup in ((StageHost.MODEL, PINS), (None, replace(PINS, host_side=False)))
    }
    assert why == {
        StageHost.MODEL: "no kernel takes part with --host model",
        None: "no kernel takes part in this",
    }
    assert on_stage(None, (), PINS, frozenset({Need.IN_PLACE}))[0].host is StageHost.MACHINE
    with pytest.raises(HostLacksError):
        on_stage(StageHost.LAB, ())
    with pytest.raises(UsageError, match="there is none"):
        on_stage(StageHost.MODEL, (), replace(PINS, designs=("no design",)))


@pytest.mark.kvm
def test_on_kvm_it_says_what_this_kernel_has_not_and_what_is_lacking() -> None:
    two = replace(PINS, designs=(LINUX, MAIL))
    staged, _ = on_stage(None, (), two)
    assert (staged.host, staged.kernel) == (StageHost.KVM, os.uname().release)
    assert staged.why == f"{MAIL} is followed by the rules alone: this kernel does not have it"
    with pytest.raises(HostLacksError, match="conversion in place"):
        on_stage(StageHost.KVM, (), two, frozenset({Need.IN_PLACE}))


@pytest.mark.kvm
def test_the_design_that_a_kernel_has_is_the_one_that_is_carried_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pins_on_host, "design_of", lambda _: memslot_pins_file())
    two = replace(PINS, designs=(LINUX, MAIL))
    staged, (made,) = on_stage(None, ("create-vm",), two)
    assert staged.host is StageHost.KVM
    assert staged.why == f"{LINUX} is followed by the rules alone: this kernel does not have it"
    assert [one.design for one in made.answers] == [MAIL, LINUX]
    seen = {name: scene.seen for name, scene in made.after.scenes}
    assert "vm0" in seen[MAIL]
    assert not seen[LINUX]


@pytest.mark.kvm
def test_a_kernel_of_another_design_is_not_taken_for_the_one_that_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owned = memslot_pins_file(Remedy.OWNER_IN_INODE)
    monkeypatch.setattr(pins_on_host, "design_of", lambda _: owned)
    two = replace(PINS, designs=(LINUX, MAIL))
    staged, _ = on_stage(None, (), two)
    assert staged.host is StageHost.MACHINE
    told = f"follows {owned.name}, and this is about {LINUX} and {MAIL}"
    assert staged.why == f"this machine's KVM {told}"
    with pytest.raises(HostLacksError) as caught:
        on_stage(StageHost.KVM, (), two)
    assert str(caught.value) == f"cannot tell this chapter on kvm: it {told}; use --host model"
    monkeypatch.setattr(unowned_files, "has_unowned_files", lambda _: True)
    bare = Setup(StageKind.BARE)
    staged, _ = on_stage(None, (), bare)
    assert staged.host is StageHost.MODEL
    assert "its files pin no VM" in staged.why
    with pytest.raises(HostLacksError, match="the chapter pins tells of both designs"):
        on_stage(StageHost.KVM, (), bare)


def test_parsed_operations_are_those_of_the_scenarios() -> None:
    for told in SCENARIOS:
        assert tuple(parse_operation(one.operation) for one in scenario(told.name)) == (
            told.operations
        )
