# SPDX-License-Identifier: MIT
"""Interleavings: with all protections no harm; without any one of them there is some."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest

from pyvmm.lifetime.locks import (
    F_FREED,
    F_STATE,
    FILE,
    SECOND_PAGE,
    THREAD,
    Cells,
    Floor,
    Harm,
    Protection,
)
from pyvmm.lifetime.programs import Writer
from pyvmm.lifetime.race_starts import (
    PROTECTIONS,
    STARTS,
    Scenario,
    scenarios,
    start_cells,
    tasks_of,
)
from pyvmm.lifetime.race_tasks import Act, Failure, Task
from pyvmm.lifetime.races import Races, race, run_races
from pyvmm.lifetime.steps import Locking, Program

from .gathered import LITTLE, WHOLE

FOUND: dict[tuple[Locking, Protection], set[Harm]] = {
    (Locking.MAINLINE, Protection.SLOTS_LOCK): {
        # "unbind doesn't race and free the memslot"
        Harm.FREED_SLOT, Harm.FREED_BINDINGS, Harm.FREED_FILE, Harm.DOUBLE_FREE, Harm.STALE_POINTER,
    },
    # "Bindings must be stable across invalidation to ensure the start+end are balanced."
    (Locking.MAINLINE, Protection.INVALIDATE_LOCK): {Harm.UNBALANCED, Harm.LIST_CHANGED},
    (Locking.MAINLINE, Protection.SRCU_GRACE): {Harm.FREED_SLOT},
    (Locking.MAINLINE, Protection.FILE_MEMORY): {Harm.FREED_FILE},
    # kvm_gmem_get_file must not return a file that has been closed already
    (Locking.MAINLINE, Protection.UNLESS_ZERO): {
        Harm.FREED_BINDINGS, Harm.FREED_FILE, Harm.FREED_VM, Harm.DOUBLE_FREE,
    },
    (Locking.MAINLINE, Protection.RETRY): {Harm.STALE_MAPPING},
    (Locking.MAINLINE, Protection.ROLL_BACK): {Harm.STALE_POINTER, Harm.FREED_SLOT},
    # Who links a file must join the inode's list as who releases one leaves it.
    (Locking.MAINLINE, Protection.LIST_LOCK): {Harm.LIST_CHANGED},
    # Release takes its VM's slots_lock; kvm_destroy_vm takes none, as nobody can come any more.
    (Locking.MAINLINE, Protection.FILE_PINS): {
        Harm.FREED_VM, Harm.FREED_SLOT, Harm.FREED_FILE, Harm.FREED_BINDINGS, Harm.STALE_POINTER,
    },
    # The lock is in the inode, and the inode is found through the file pointer: RCU all the same.
    (Locking.NEWEST, Protection.SLOTS_LOCK): {
        Harm.FREED_SLOT, Harm.FREED_BINDINGS, Harm.FREED_FILE, Harm.DOUBLE_FREE, Harm.STALE_POINTER,
    },
    (Locking.NEWEST, Protection.INVALIDATE_LOCK): {Harm.UNBALANCED, Harm.LIST_CHANGED},
    (Locking.NEWEST, Protection.SRCU_GRACE): {Harm.FREED_SLOT},
    (Locking.NEWEST, Protection.FILE_MEMORY): {Harm.FREED_FILE},
    (Locking.NEWEST, Protection.UNLESS_ZERO): {
        Harm.FREED_BINDINGS, Harm.FREED_FILE, Harm.FREED_VM, Harm.DOUBLE_FREE,
    },
    # The lock is given back before the page is mapped.
    (Locking.NEWEST, Protection.RETRY): {Harm.STALE_MAPPING},
    (Locking.NEWEST, Protection.ROLL_BACK): {Harm.STALE_POINTER, Harm.FREED_SLOT},
    # Who links a file must join the inode's list as who releases one leaves it.
    (Locking.NEWEST, Protection.LIST_LOCK): {Harm.LIST_CHANGED},
    # Release takes its VM's slots_lock; kvm_destroy_vm takes none, as nobody can come any more.
    (Locking.NEWEST, Protection.FILE_PINS): {
        Harm.FREED_VM, Harm.FREED_SLOT, Harm.FREED_FILE, Harm.FREED_BINDINGS, Harm.STALE_POINTER,
    },
    # What post_populate did in TDX: kvm_gmem_get_pfn again, which shares the lock that is held.
    (Locking.NEWEST, Protection.FETCH_ONCE): {Harm.DEADLOCK},
    (Locking.PROPOSAL, Protection.SLOTS_LOCK): {
        Harm.DOUBLE_FREE, Harm.STALE_POINTER, Harm.FREED_SLOT, Harm.WRONG_FILE, Harm.LEFT_OVER,
    },
    (Locking.PROPOSAL, Protection.INVALIDATE_LOCK): {
        Harm.TWO_VMS, Harm.UNBALANCED, Harm.HALF_BOUND, Harm.LIST_CHANGED,
    },
    (Locking.PROPOSAL, Protection.SRCU_GRACE): {
        Harm.FREED_SLOT, Harm.FREED_FILE, Harm.FREED_BINDINGS, Harm.WRONG_FILE,
    },
    (Locking.PROPOSAL, Protection.RETRY): {Harm.STALE_MAPPING},
    (Locking.PROPOSAL, Protection.SLOTS_FIRST): {Harm.FREED_VM},
    (Locking.PROPOSAL, Protection.ROLL_BACK): {Harm.STALE_POINTER, Harm.FREED_SLOT},
    (Locking.PROPOSAL, Protection.ROLL_BACK_VM): {Harm.STALE_POINTER},
    # Its release has nothing to do for KVM, but the inode's list is walked by page errors.
    (Locking.PROPOSAL, Protection.LIST_LOCK): {Harm.LIST_CHANGED},
}  # fmt: skip

DESIGNS = (Locking.MAINLINE, Locking.NEWEST, Locking.PROPOSAL)
UNBIND, CLOSE = Task(Act.UNBIND), Task(Act.CLOSE_FILE)
GUEST, ERROR = Task(Act.GUEST), Task(Act.MEMORY_ERROR)
PUNCH_LINKED = Task(Act.PUNCH, file=1)
BIND_SECOND_PAGE = Task(Act.BIND, slot=1, pages=SECOND_PAGE)

FOUND_BY_THREE: dict[tuple[Locking, Protection], tuple[Scenario, Harm]] = {
    # vcpu_run unlocks kvm->srcu around kvm_xfer_to_guest_mode_handle_work: otherwise the fault's
    # last fput would wait for slots_lock, and who has that waits for the fault.
    (locking, Protection.RELEASE_OUTSIDE_SRCU): (
        Scenario("bound", (GUEST, UNBIND, CLOSE)), Harm.DEADLOCK,
    )
    for locking in (Locking.MAINLINE, Locking.NEWEST)
}  # fmt: skip
SPARE = frozenset({Protection.RELOAD, Protection.SAME_FILE, Protection.SAME_SLOT})
"""Each is enough against a `struct file` whose memory is another file's by now."""
AT_THE_END = (
    Harm.DEADLOCK, Harm.UNBALANCED, Harm.TWO_VMS, Harm.STALE_POINTER, Harm.LEFT_OVER,
    Harm.HALF_BOUND,
)  # fmt: skip
OF_SLOTS = (Act.BIND, Act.UNBIND, Act.GUEST)


def pairs(locking: Locking, *dropped: Protection) -> Races:
    return LITTLE.raced(locking, *dropped)


@pytest.mark.parametrize("locking", DESIGNS, ids=lambda x: x.name)
def test_two_operations_at_a_time_do_no_harm(locking: Locking) -> None:
    found = pairs(locking)
    assert not found.harms
    assert found.scenarios == sum(1 for _ in scenarios((1, 2)))
    assert found.schedules > 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("locking", DESIGNS, ids=lambda x: x.name)
def test_three_operations_at_a_time_do_no_harm(locking: Locking) -> None:
    found = WHOLE.raced(locking)
    assert not found.harms
    assert found.scenarios == sum(1 for _ in scenarios())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("locking", "dropped"), FOUND, ids=[f"{a.name}-{b.name}" for a, b in FOUND]
)
def test_without_a_protection_its_race_is_found(locking: Locking, dropped: Protection) -> None:
    found = pairs(locking, dropped)
    assert set(found.harms) == FOUND[locking, dropped]
    assert found.harmful


def test_every_protection_of_the_designs_was_dropped() -> None:
    for locking in DESIGNS:
        dropped = {p for each, p in (*FOUND, *FOUND_BY_THREE) if each is locking}
        spare = SPARE if locking is not Locking.PROPOSAL else frozenset()
        assert dropped | spare == set(PROTECTIONS[locking])
        assert not dropped & spare


@pytest.mark.parametrize(
    ("locking", "dropped"), FOUND_BY_THREE, ids=[f"{a.name}-{b.name}" for a, b in FOUND_BY_THREE]
)
def test_without_a_protection_three_come_to_harm(locking: Locking, dropped: Protection) -> None:
    scenario, harm = FOUND_BY_THREE[locking, dropped]
    assert set(race(locking, scenario, frozenset({dropped})).harms) == {harm}
    assert not race(locking, scenario, frozenset()).harms
    assert not pairs(locking, dropped).harms


@pytest.mark.slow
def test_v11_forgets_a_binding_when_the_file_is_being_closed() -> None:
    """Mainline's comment in kvm_gmem_unbind: "if the file is _being_ closed, then the bindings
    need to be removed as kvm_gmem_release() might not run until after the memslot is freed"."""
    found = pairs(Locking.V11)
    assert set(found.harms) == {Harm.FREED_SLOT, Harm.HALF_BOUND}
    for scenario in harmful_but_for_memory(found):
        assert {task.act for task in scenario.tasks} == {Act.UNBIND, Act.CLOSE_FILE}


@pytest.mark.slow
def test_v11s_lock_order_deadlocks_once_unbinding_is_repaired() -> None:
    found = pairs(Locking.V11_ORDER)
    assert set(found.harms) == {Harm.DEADLOCK, Harm.HALF_BOUND}
    for scenario in harmful_but_for_memory(found):
        assert {task.act for task in scenario.tasks} == {Act.UNBIND, Act.CLOSE_FILE}


def harmful_but_for_memory(found: Races) -> list[Scenario]:
    """Scenarios that come to harm, but those in which a binding finds no memory."""
    harmful = [each for each in found.harmful if all(task.fails is None for task in each.tasks)]
    assert harmful
    return harmful


def test_the_last_unbinding_clears_the_pointer_while_another_binds() -> None:
    """Of one VM: slots_lock keeps them apart, and so does the invalidate lock. Either is enough."""
    scenario = Scenario("bound", (UNBIND, BIND_SECOND_PAGE))
    locks = (Protection.SLOTS_LOCK, Protection.INVALIDATE_LOCK)
    for spare in locks:
        assert not race(Locking.PROPOSAL, scenario, frozenset({spare})).harms
    found = race(Locking.PROPOSAL, scenario, frozenset(locks))
    assert set(found.harms) == {Harm.TWO_VMS}
    steps = found.harms[Harm.TWO_VMS].steps
    assert steps.index((1, "store the binding")) < steps.index((0, "clear the VM pointer"))
    assert not race(Locking.MAINLINE, scenario, frozenset(locks)).harms


@pytest.mark.parametrize("locking", DESIGNS[:2], ids=lambda x: x.name)
def test_a_freed_file_that_is_another_one_by_now_is_noticed_three_times(locking: Locking) -> None:
    """SLAB_TYPESAFE_BY_RCU: get_file_active may get a reference on another VM's file.

    mmu_invalidate_seq would keep the page from being mapped; but it is allocated by then, and with
    SNP assigned.
    """
    scenario = Scenario("bound", (GUEST, CLOSE, Task(Act.REOPEN, vm=1)))
    for spared in SPARE:
        assert not race(locking, scenario, SPARE - {spared}).harms
    found = race(locking, scenario, SPARE)
    assert set(found.harms) == {Harm.WRONG_FILE}
    steps = found.harms[Harm.WRONG_FILE].steps
    assert steps.index((2, "create a file of inode1")) < steps.index((0, "get the file"))
    assert steps[-1] == (0, "find the page")


@pytest.mark.parametrize("locking", DESIGNS[:2], ids=lambda x: x.name)
def test_a_fault_keeps_no_file_while_it_maps_the_page(locking: Locking) -> None:
    """kvm_gmem_get_pfn puts it at its end: only mmu_invalidate_seq notices a release after that."""
    found = race(locking, Scenario("bound", (GUEST, CLOSE)), frozenset({Protection.RETRY})).harms
    assert set(found) == {Harm.STALE_MAPPING}
    steps = found[Harm.STALE_MAPPING].steps
    assert steps.index((0, "drop the file")) < steps.index((1, "free struct file"))


def test_the_newest_fault_has_given_the_lock_back_when_the_page_goes() -> None:
    scenario = Scenario("bound", (GUEST, Task(Act.PUNCH)))
    found = race(Locking.NEWEST, scenario, frozenset({Protection.RETRY})).harms
    steps = found[Harm.STALE_MAPPING].steps
    lock = "lock the invalidate lock, shared"
    for step in (lock, "find the page", f"un{lock}"):
        assert steps.index((0, step)) < steps.index((1, "give the pages back"))


def test_populating_that_looks_its_page_up_again_waits_for_itself() -> None:
    """A known deadlock of TDX with the newest fault; where that takes no lock it is none."""
    alone = Scenario("bound", (Task(Act.POPULATE),))
    dropped = frozenset({Protection.FETCH_ONCE})
    found = race(Locking.NEWEST, alone, dropped).harms
    assert set(found) == {Harm.DEADLOCK}
    assert found[Harm.DEADLOCK].steps[-1] == (0, "find the page")
    for locking in DESIGNS:
        assert not race(locking, alone, frozenset()).harms
    assert not race(Locking.MAINLINE, alone, dropped).harms


def test_a_link_is_only_found_by_who_walks_the_list_under_the_lock() -> None:
    """After it both files' VMs are invalidated; without a lock the list is walked half-changed."""
    linked = Scenario("bound", (Task(Act.PUNCH), Task(Act.LINK, vm=1)))
    for locking in DESIGNS:
        assert not race(locking, linked, frozenset()).harms
        found = race(locking, linked, frozenset({Protection.LIST_LOCK})).harms
        assert set(found) == {Harm.LIST_CHANGED}
        steps = [name for _, name in found[Harm.LIST_CHANGED].steps]
        assert "join the inode's list: begin" in steps
        assert "join the inode's list: end" not in steps


def test_the_proposals_release_still_leaves_the_inodes_list_under_the_lock() -> None:
    """A page error has no reference on a file, so it may walk the list while a file is released."""
    scenario = Scenario("unbound", (CLOSE, ERROR))
    assert not race(Locking.PROPOSAL, scenario, frozenset()).harms
    found = race(Locking.PROPOSAL, scenario, frozenset({Protection.LIST_LOCK}))
    assert set(found.harms) == {Harm.LIST_CHANGED}


@pytest.mark.parametrize("locking", DESIGNS, ids=lambda x: x.name)
def test_the_guest_runs_by_a_vcpus_descriptor_alone(locking: Locking) -> None:
    punched = Scenario("vcpu-only", (GUEST, Task(Act.PUNCH)))
    assert set(race(locking, punched, frozenset({Protection.RETRY})).harms) == {Harm.STALE_MAPPING}
    closed = Scenario("vcpu-only", (GUEST, CLOSE, Task(Act.CLOSE_VCPU)))
    assert not race(locking, closed, frozenset()).harms


@pytest.mark.parametrize(
    ("start", "third"), [("bound", ERROR), ("mapped", ERROR), ("linked", PUNCH_LINKED)]
)
def test_a_dying_file_unbound_without_the_lock_leaves_an_invalidation_begun(
    start: str, third: Task
) -> None:
    """6.8 to 7.0: who invalidates holds no reference on the file, and finds its binding gone."""
    scenario = Scenario(start, (UNBIND, CLOSE, third))
    before = race(Locking.MAINLINE_BEFORE, scenario, frozenset())
    assert set(before.harms) == {Harm.UNBALANCED}
    steps = before.harms[Harm.UNBALANCED].steps
    assert (0, "erase the binding, without a lock") in steps
    assert not race(Locking.MAINLINE, scenario, frozenset()).harms
    assert not race(Locking.PROPOSAL, scenario, frozenset()).harms


def test_two_at_a_time_do_not_show_it() -> None:
    assert set(pairs(Locking.MAINLINE_BEFORE).harms) == {Harm.HALF_BOUND}


def test_up_to_7_0_a_binding_that_finds_no_memory_is_there_by_half() -> None:
    """kvm_gmem_bind ignored what xa_store_range returns; one thread alone is enough."""
    (task,) = (each for each in tasks_of("unbound") if each.fails is Failure.STORE)
    alone = Scenario("unbound", (task,))
    before = race(Locking.MAINLINE_BEFORE, alone, frozenset())
    assert set(before.harms) == {Harm.HALF_BOUND}
    assert (0, "make the slot visible") in before.harms[Harm.HALF_BOUND].steps
    for locking in DESIGNS:
        after = race(locking, alone, frozenset())
        assert not after.harms
        assert after.schedules == 1


@pytest.mark.slow
@pytest.mark.parametrize("locking", [Locking.V11, Locking.V11_ORDER], ids=lambda x: x.name)
def test_in_v11_every_protection_matters_but_two_that_do_the_same(locking: Locking) -> None:
    """A reader of the file pointer is waited for twice: by release's synchronize_rcu, and by the
    memory of struct file, which is freed after a grace period of its own. Either is enough."""
    known = pairs(locking)
    spare = {Protection.RCU_GRACE, Protection.FILE_MEMORY}
    by_three = {Protection.RELEASE_OUTSIDE_SRCU, *SPARE}
    for dropped in PROTECTIONS[locking]:
        found = pairs(locking, dropped)
        more = set(found.harms) - set(known.harms) or set(found.harmful) - set(known.harmful)
        assert bool(more) == (dropped not in spare | by_three), dropped
    assert Harm.FREED_FILE in pairs(locking, *spare).harms


def go_on(program: Program, w: Cells, t: int) -> str:
    """Do a thread's next step, and tell its name."""
    at = w[THREAD[t]]
    to = program.bodies[at](w, t)
    w[THREAD[t]] = at + 1 if to is None else program.labels.get(to, at)
    return program.names[at]


@pytest.mark.parametrize(
    ("locking", "dropped"),
    [
        # Each explores all pairs; the one with the most harms is enough for `make quick`.
        pytest.param(
            *each,
            id="-".join(what.name for what in each),
            marks=[] if each == (Locking.MAINLINE, Protection.SLOTS_LOCK) else [pytest.mark.slow],
        )
        for each in FOUND
    ],
)
def test_a_schedule_can_be_followed_to_its_harm(locking: Locking, dropped: Protection) -> None:
    for harm, schedule in pairs(locking, dropped).harms.items():
        floor = Floor(frozenset(PROTECTIONS[locking]) - {dropped}, locking is Locking.PROPOSAL)
        writer = Writer(locking, floor)
        programs = [writer.program(task) for task in schedule.scenario.tasks]
        w = start_cells(schedule.scenario.start, locking, floor.held)
        for t, name in schedule.steps:
            assert not floor.harms
            while not programs[t].tells(w[THREAD[t]]):
                go_on(programs[t], w, t)
            assert go_on(programs[t], w, t) == name
        if harm not in AT_THE_END:
            assert harm in floor.harms
        lines = schedule.lines()
        assert lines[-1] == f"=> {harm.value}"
        assert len(lines) == len(schedule.steps) + 2 + len(schedule.scenario.tasks)


def test_schedules_are_counted_right() -> None:
    """Two closings of one VM's descriptor: the second ends at once. Counted by hand."""
    scenario = Scenario("unbound", (Task(Act.CLOSE_VM, vm=1), Task(Act.CLOSE_VM, vm=1)))
    found = race(Locking.PROPOSAL, scenario, frozenset())
    # Whoever closes first runs on for some steps; the other's single step falls between any two.
    alone = race(Locking.PROPOSAL, Scenario("unbound", (Task(Act.CLOSE_VM, vm=1),)), frozenset())
    assert alone.schedules == 1
    assert found.schedules == 2 * alone.steps


def test_scenarios_are_all_multisets() -> None:
    """Counted by hand: of n tasks (n+1)n/2 pairs, and each beside a rarer one."""
    chosen = list(scenarios((2,), ("bound",)))
    assert len(chosen) == len(set(chosen)) == 55 + 4 * 10
    twos, threes = (list(scenarios((size,))) for size in (2, 3))
    assert len(twos) == 78 + 12 + 3 * 55 + (4 + 3 + 2) * 10 + 15 + 5 + 36 + 8 + 45 + 9
    assert len(threes) == 364 + 78 + 3 * 220 + 9 * 55 + 35 + 15 + 120 + 36 + 165 + 45
    assert {each.start for each in scenarios((2, 3))} == set(STARTS)
    for one, other in combinations(chosen, 2):
        assert sorted(map(str, one.tasks)) != sorted(map(str, other.tasks))


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    run_races(
        Locking.MAINLINE, scenarios((2,), ("bound",)), progress=lambda *each: told.append(each)
    )
    assert told[0] == (0, 55 + 4 * 10)


@pytest.mark.slow
def test_an_mmu_torn_down_first_does_harm_by_assumption_only() -> None:
    """An MMU that has lost its roots finds nothing to zap; one whose keys are given back does."""
    found = run_races(
        Locking.PROPOSAL,
        scenarios((1, 2)),
        dropped=frozenset({Protection.SLOTS_FIRST}),
        torn_is_harm=False,
    )
    assert not found.harms
    assert found.scenarios == pairs(Locking.PROPOSAL, Protection.SLOTS_FIRST).scenarios


@pytest.mark.slow
@pytest.mark.parametrize("locking", DESIGNS, ids=lambda x: x.name)
def test_quiet_steps_hide_no_harm(locking: Locking, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are done at once with the step before; followed one by one, they show nothing more."""
    written = Writer.program

    def one_by_one(self: Writer, task: Task) -> Program:
        program = written(self, task)
        assert not program.quiet[0]
        return replace(program, quiet=(False,) * program.end)

    chosen = list(scenarios((2,), ("bound", "twice")))
    at_once = {
        dropped: run_races(locking, chosen, dropped=frozenset({dropped}))
        for dropped in PROTECTIONS[locking]
    }
    monkeypatch.setattr(Writer, "program", one_by_one)
    for dropped, quietly in at_once.items():
        found = run_races(locking, chosen, dropped=frozenset({dropped}))
        assert found.states > quietly.states
        assert set(found.harms) == set(quietly.harms), dropped


def test_a_slot_is_of_one_vm() -> None:
    """Two VMs that bind one slot would race for what no two VMs share."""
    for scenario in scenarios((3,)):
        owners = {(task.slot, task.vm) for task in scenario.tasks if task.act in OF_SLOTS}
        assert len(owners) == len({slot for slot, _ in owners}), scenario


def test_the_proposals_file_is_released_after_its_vm_is_freed() -> None:
    """``fput`` defers it, and what defers what comes first is not promised."""
    floor = Floor(frozenset(PROTECTIONS[Locking.PROPOSAL]), True)
    program = Writer(Locking.PROPOSAL, floor).program(Task(Act.CLOSE_VM))
    w = start_cells("half-closed", Locking.PROPOSAL, floor.held)
    names = []
    while w[THREAD[0]] != program.end:
        names.append(go_on(program, w, 0))
    assert not floor.harms
    assert names.index("free the VM") < names.index("free struct file")
    assert w[FILE[0] + F_STATE] == F_FREED
