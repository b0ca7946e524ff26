# SPDX-License-Identifier: MIT
"""Features of a universe: what they add to a state, and that nothing changes without them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyvmm.errors import UsageError
from pyvmm.lifetime.adapting import check_story, check_universe, design_named, universe_named
from pyvmm.lifetime.designs import STANDARD_DESIGNS, Design, Remedy, file_pins_vm, memslot_pins_file
from pyvmm.lifetime.explorer import explore
from pyvmm.lifetime.holdings import holdings
from pyvmm.lifetime.layout import EXTRAS, INODE_FILES, REFS, Layout
from pyvmm.lifetime.operations import Kind, Operation, operations
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.transitions import TransitionSystem
from pyvmm.lifetime.universe import (
    ERRORS,
    FAILURES,
    SMALL,
    TYPES,
    UNIVERSES,
    VCPUS,
    Feature,
    Universe,
)
from pyvmm.rules.lifecycle import Effect, Event

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


def test_a_universe_says_what_it_has() -> None:
    assert str(SMALL).endswith(" 1 processes, 1 descriptors each")
    assert str(ALL_OF_THEM).endswith(
        "1 descriptors each, 1 of vCPUs; links, private memory, memory errors, bindings that fail, "
        "virtual machines that move, live updates"
    )
    assert str(WITHOUT_MAPPINGS).endswith("; no mappings of files")


def outcomes(system: TransitionSystem, *steps: Operation) -> list[str]:
    """Outcomes of these steps, one after the other from nothing."""
    state, found = system.initial, []
    for each in steps:
        step = system.step(state, each)
        assert step.faults == ()
        found.append(step.outcome)
        state = step.state
    return found


def names(design: Design) -> str:
    return design.name


WITHOUT_MAPPINGS = Universe("without mappings", 2, 1, 1, 1, 1, 1, host_maps=False)


def test_files_without_mappings_are_private_memory() -> None:
    there = {each.kind for each in operations(WITHOUT_MAPPINGS, system_creation=False)}
    assert there.isdisjoint({Kind.MAP, Kind.UNMAP, Kind.HOST_READ})
    system = TransitionSystem(file_pins_vm(), WITHOUT_MAPPINGS)
    kinds = (Kind.CREATE_VM, Kind.CREATE_FILE, Kind.BIND, Kind.GUEST_WRITE, Kind.GUEST_READ)
    assert outcomes(system, *map(Operation, kinds)) == [*["ok"] * 4, "vm0's page"]


TOGETHER = Universe("together", 1, 1, 1, 1, 1, 1, vcpus=1, types=2, errors=True, failures=True)


def test_features_together_break_nothing_that_they_do_not_break_alone() -> None:
    assert set(explore(file_pins_vm(), TOGETHER).stories) == {
        "closing-is-harmless", "file-does-not-pin-vm", "slots-can-be-changed",
    }  # fmt: skip


# vCPUs: their descriptors keep the VM, and the guest runs by them.


@pytest.mark.parametrize("design", STANDARD_DESIGNS, ids=names)
def test_a_guest_can_run_whose_slots_nobody_can_change(design: Design) -> None:
    found = explore(design, VCPUS)
    story = found.stories["slots-can-be-changed"]
    assert len(story.steps) == 5
    assert story.steps[-1].operation.kind is Kind.CLOSE_VM
    assert story.ending == "the guest of vm0 runs, and nobody can delete its slot0"
    # Apart from that, vCPUs change how long it takes, not what holds.
    without = set(explore(design, SMALL).stories)
    assert set(found.stories) == without | {"slots-can-be-changed"}


_TO_A_RUNNING_GUEST = (Kind.BIND, Kind.CREATE_VCPU, Kind.CLOSE_VM, Kind.GUEST_WRITE)


def test_after_the_file_such_a_guest_faults_for_good_in_linux_and_goes_on_in_the_mail() -> None:
    linux = TransitionSystem(file_pins_vm(), VCPUS)
    kinds = (Kind.CREATE_VM, Kind.CREATE_FILE, *_TO_A_RUNNING_GUEST, Kind.CLOSE_FILE)
    found = outcomes(linux, *map(Operation, (*kinds, Kind.GUEST_READ)))
    assert found == [*["ok"] * 7, "EFAULT"]
    mail = TransitionSystem(memslot_pins_file(), VCPUS)
    kinds = (Kind.CREATE_VM, Kind.CREATE_UNOWNED, *_TO_A_RUNNING_GUEST, Kind.CLOSE_FILE)
    found = outcomes(mail, *map(Operation, (*kinds, Kind.GUEST_READ)))
    assert found == [*["ok"] * 7, "vm0's page"]


def test_a_guest_runs_by_a_vcpu_only_and_its_vm_is_asked_by_its_own_descriptor_only() -> None:
    system = TransitionSystem(file_pins_vm(), VCPUS)
    to_bound = [Operation(each) for each in (Kind.CREATE_VM, Kind.CREATE_FILE, Kind.BIND)]
    with pytest.raises(UsageError):
        outcomes(system, *to_bound, Operation(Kind.GUEST_READ))
    running = [*to_bound, Operation(Kind.CREATE_VCPU), Operation(Kind.CLOSE_VM)]
    for refused in (Kind.UNBIND, Kind.MOVE, Kind.CREATE_VCPU, Kind.BIND):
        with pytest.raises(UsageError):
            outcomes(system, *running, Operation(refused))


def test_a_child_inherits_vcpus_and_holds_the_vm_by_them() -> None:
    universe = replace(VCPUS, processes=2)
    system = TransitionSystem(file_pins_vm(), universe)
    state = system.initial
    life = []
    for each in (
        Operation(Kind.CREATE_VM), Operation(Kind.CREATE_VCPU), Operation(Kind.FORK),
        Operation(Kind.EXIT), Operation(Kind.CLOSE_VM, 1), Operation(Kind.CLOSE_VCPU, 1),
    ):  # fmt: skip
        state = system.step(state, each).state
        life.append(state[system.layout.vm[0] + REFS])
        edges = holdings(system.design.lifecycle, system.layout, state)
        assert sum(edge.held == "vm0" and edge.why.pins for edge in edges) == life[-1]
    assert life == [1, 2, 4, 2, 1, 0]


# Errors on pages: mappings go, the page stays, and who reaches for it is told.


@pytest.mark.parametrize("design", STANDARD_DESIGNS, ids=names)
def test_errors_and_failures_break_nothing_that_held(design: Design) -> None:
    plain = set(explore(design, SMALL).stories)
    failing = explore(design, FAILURES)
    assert failing.operations[Kind.BIND_FAILS, "ENOMEM"]
    assert set(failing.stories) == plain
    erring = explore(design, ERRORS)
    assert erring.operations[Kind.GUEST_READ, "EHWPOISON"]
    assert erring.operations[Kind.HOST_READ, "SIGBUS"]
    assert set(erring.stories) == set(explore(design, replace(ERRORS, errors=False)).stories)


@pytest.mark.parametrize("design", [file_pins_vm(), memslot_pins_file()], ids=names)
def test_a_mapping_left_reads_a_bad_page_and_is_told_nothing(design: Design) -> None:
    broken = design.without(Event.PAGE_ERROR, Effect.ZAP_PAGES)
    story = explore(broken, ERRORS, intended=design).stories["errors-are-told"]
    assert len(story.steps) == 6
    assert [each.operation.kind for each in story.steps[-2:]] == [Kind.PAGE_ERROR, Kind.GUEST_READ]
    assert (
        story.ending
        == "the guest of vm0 reads page0, which has a memory error, and is told nothing"
    )


def test_a_hole_takes_the_bad_page_away() -> None:
    system = TransitionSystem(file_pins_vm(), ERRORS)
    bound = [Operation(each) for each in (Kind.CREATE_VM, Kind.CREATE_FILE, Kind.BIND, Kind.MAP)]
    bad, read = Operation(Kind.PAGE_ERROR), Operation(Kind.GUEST_READ)
    look = Operation(Kind.HOST_READ)
    write, punch = Operation(Kind.GUEST_WRITE), Operation(Kind.PUNCH)
    found = outcomes(system, *bound, write, bad, read, write, look, punch, read, look)
    assert found[5:] == ["ok", "EHWPOISON", "EHWPOISON", "SIGBUS", "ok", "zeroes", "zeroes"]
    other = Operation(Kind.HOST_READ, page=1)
    assert outcomes(system, *bound, bad, other)[-1] == "zeroes"
    with pytest.raises(UsageError):
        outcomes(system, *bound, bad, bad)


# Bindings that fail: what was done before the memory ran out is taken back.

NEVER_USED_AND_OWNED = (Remedy.NEVER_REBIND, Remedy.OWNER_IN_INODE)


@pytest.mark.parametrize("remedies", [(), *((each,) for each in Remedy)], ids=str)
def test_who_names_before_what_can_fail_has_more_to_take_back(
    remedies: tuple[Remedy, ...],
) -> None:
    design = memslot_pins_file(*remedies, names_first=True)
    story = explore(design, FAILURES).stories.get("failure-changes-nothing")
    if remedies == (Remedy.ZERO_AT_REBINDING,):
        assert story is not None
        assert len(story.steps) == 7, "zeroed for a binding that did not come about"
    elif remedies and remedies[0] in NEVER_USED_AND_OWNED:
        assert story is not None
        assert [each.operation.kind for each in story.steps] == [
            Kind.CREATE_UNOWNED, Kind.CREATE_VM, Kind.BIND_FAILS,
        ]  # fmt: skip
    else:
        assert story is None


def test_the_mail_s_first_name_is_taken_back_by_the_last_unbinding_s_rule() -> None:
    design = memslot_pins_file(names_first=True)
    forgets = Effect.LAST_UNBINDING_FORGETS_VM
    assert forgets in design.lifecycle.of(Event.BIND_FAILS)
    broken = explore(design.without(Event.BIND_FAILS, forgets), FAILURES, intended=design)
    assert not broken.holds("failure-changes-nothing")
    assert "is freed" in broken.stories["nothing-dangles"].ending
    assert design_named(design.name) == design


def test_a_binding_that_is_refused_does_not_fail() -> None:
    system = TransitionSystem(file_pins_vm(), FAILURES)
    bind, fails = Operation(Kind.BIND), Operation(Kind.BIND_FAILS)
    begin = (Operation(Kind.CREATE_VM), Operation(Kind.CREATE_FILE))
    assert outcomes(system, *begin, fails, fails, bind, bind) == [
        "ok", "ok", "ENOMEM", "ENOMEM", "ok", "EINVAL",
    ]  # fmt: skip
    with pytest.raises(UsageError):
        outcomes(system, *begin, bind, fails)


# Types of VMs, and flags of files: judged when the file is created for its VM, or at binding.

_OF_TYPES = {"flags-fit-the-type", "private-stays-private"}


@pytest.mark.parametrize("design", STANDARD_DESIGNS, ids=names)
def test_who_creates_files_for_no_vm_has_to_judge_flags_at_binding(design: Design) -> None:
    plain = set(explore(design, SMALL).stories)
    found = explore(design, TYPES)
    if not design.system_creation:
        assert found.operations[Kind.CREATE_FILE, "EINVAL"]
        assert set(found.stories) == plain
        return
    assert set(found.stories) == plain | _OF_TYPES
    assert [str(step) for step in found.stories["flags-fit-the-type"].steps] == [
        "parent: create file0, for no VM yet",
        "parent: create vm0, with private memory",
        "parent: bind slot0 of vm0 to page0 of file0",
    ]
    leak = found.stories["private-stays-private"]
    assert (len(leak.steps), leak.steps[-1].outcome) == (6, "vm0's page")
    judging = memslot_pins_file(*design.remedies, judges_flags=True)
    steps = [step.operation for step in found.stories["flags-fit-the-type"].steps]
    assert outcomes(TransitionSystem(judging, TYPES), *steps) == ["ok", "ok", "EINVAL"]
    assert set(explore(judging, TYPES).stories) == plain
    assert design_named(judging.name) == judging


def test_memory_of_neither_type_is_the_other_s() -> None:
    linux = TransitionSystem(file_pins_vm(), TYPES)
    private_vm = Operation(Kind.CREATE_VM, private=1)
    private_file, file = (Operation(Kind.CREATE_FILE, private=each) for each in (1, 0))
    use = [Operation(each) for each in (Kind.BIND, Kind.GUEST_WRITE, Kind.GUEST_READ)]
    assert outcomes(linux, private_vm, file) == ["ok", "EINVAL"]
    assert outcomes(linux, private_vm, private_file, *use)[2:] == ["ok", "ok", "vm0's page"]
    assert outcomes(linux, private_vm, private_file, Operation(Kind.MAP))[2] == "ENODEV"
    # A default VM may have a file of private memory: its guest finds nothing at the slot's address.
    default = Operation(Kind.CREATE_VM)
    assert outcomes(linux, default, private_file, *use)[2:] == ["ok", "EFAULT", "EFAULT"]
    assert str(private_file) == "parent: create file0 for vm0, of private memory"


def test_a_helper_has_private_memory_if_its_vm_has() -> None:
    universe = replace(TYPES, links=True)
    for design in (file_pins_vm(), memslot_pins_file()):
        system = TransitionSystem(design, universe)
        for private in (0, 1):
            state = system.step(system.initial, Operation(Kind.CREATE_VM, private=private)).state
            state = system.step(state, Operation(Kind.JOIN_VM, vm=1, of=0)).state
            assert state[system.layout.vm[1] + system.layout.vm_private] == private


def test_two_files_of_one_inode_come_over_a_live_update_and_hold_it_both() -> None:
    universe = Universe("linked and updated", 1, 2, 1, 1, 1, 1, links=True, updates=True)
    system = TransitionSystem(memslot_pins_file(), universe)
    both = [
        Operation(Kind.CREATE_UNOWNED), Operation(Kind.LINK_UNOWNED),
        Operation(Kind.PRESERVE_FILE), Operation(Kind.PRESERVE_FILE, file=1),
        Operation(Kind.KEXEC), Operation(Kind.RETRIEVE_FILE), Operation(Kind.RETRIEVE_FILE, file=1),
    ]  # fmt: skip
    end = [Operation(Kind.FINISH), Operation(Kind.CLOSE_FILE), Operation(Kind.CLOSE_FILE, file=1)]
    assert outcomes(system, *both, *end) == ["ok"] * 10
    one = [*both[:-1], *end[:2]]
    state, files = system.initial, []
    for each in one:
        state = system.step(state, each).state
        files.append(state[system.layout.inode[0] + INODE_FILES])
    assert files == [1, 2, 2, 2, 2, 2, 1, 0]
    assert state == system.initial
