# SPDX-License-Identifier: MIT
"""The mail's claims, one by one: a verdict that follows from explorations, and its evidence.

Nothing here is decided beforehand: each judgement asks `Evidence` for runs and reads its verdict
off their results, so a change of a rule changes the verdict.
"""

from __future__ import annotations

from pyvmm.lifetime.answer import simpler, sufficient
from pyvmm.lifetime.designs import Remedy, file_pins_vm, memslot_pins_file
from pyvmm.lifetime.evidence import Evidence, Judgement, Verdict, counted
from pyvmm.lifetime.explorer import Exploration
from pyvmm.lifetime.locks import Harm, Protection
from pyvmm.lifetime.properties import INVARIANTS, OWNERSHIP, WISHES
from pyvmm.lifetime.race_starts import PROTECTIONS, Scenario
from pyvmm.lifetime.race_tasks import Act
from pyvmm.lifetime.races import Races
from pyvmm.lifetime.steps import Locking
from pyvmm.lifetime.universe import TYPES
from pyvmm.rules.lifecycle import Event

MAIL = memslot_pins_file()
LINUX = file_pins_vm()
OWNED = memslot_pins_file(Remedy.OWNER_IN_INODE)
BARE = memslot_pins_file(Remedy.NEVER_REBIND)
JUDGED = memslot_pins_file(judges_flags=True)


def judge_all(evidence: Evidence) -> tuple[Judgement, ...]:
    """Every claim of the mail."""
    return tuple(
        each(evidence)
        for each in (
            _closing,
            _false_handle,
            _invalidate_lock,
            _no_rcu,
            no_clean_up,
            _one_vm,
            _contents,
            _bare_pointer,
            _permission,
            _system_ioctl,
            simpler,
            sufficient,
        )
    )


def _coverage(races: Races) -> str:
    return (
        f"{races.scenarios} scenarios, {races.states} states, {races.steps} steps, "
        f"{races.schedules} schedules: {_harm_names(races)}"
    )


def _harm_names(races: Races) -> str:
    return ", ".join(sorted(harm.value for harm in races.harms)) or "no harm"


def _wish(evidence: Evidence, name: str, quote: str, wish: str) -> Judgement:
    theirs, ours = evidence.explored(LINUX), evidence.explored(MAIL)
    verdict = Verdict.HOLDS if ours.holds(wish) and not theirs.holds(wish) else Verdict.FAILS
    stories = tuple(found.stories[wish] for found in (theirs, ours) if wish in found.stories)
    because = tuple(
        f"{counted(found)}; {wish} {'holds' if found.holds(wish) else 'does not hold'}"
        for found in (theirs, ours)
    )
    return Judgement(name, quote, verdict, "", because, stories)


def _closing(evidence: Evidence) -> Judgement:
    quote = "Closing the file destroys the file pointers in the VM and invalidates the pointers"
    return _wish(evidence, "closing-breaks-the-vm", quote, WISHES[0].name)


def _false_handle(evidence: Evidence) -> Judgement:
    quote = "Keeping the file open keeps the VM around in the kernel"
    return _wish(evidence, "false-handle-on-the-vm", quote, WISHES[1].name)


def _changes_slots_twice(scenario: Scenario) -> bool:
    """Tell whether two of its tasks change slots of one VM: what slots_lock is there for anyway.

    Who populates goes by slots_lock, too, instead of by kvm->srcu.
    """
    by_slots_lock = (Act.BIND, Act.UNBIND, Act.POPULATE)
    vms = [task.vm for task in scenario.tasks if task.act in by_slots_lock]
    return len(vms) != len(set(vms))


def _invalidate_lock(evidence: Evidence) -> Judgement:
    whole = evidence.raced(Locking.PROPOSAL)
    without = evidence.raced(Locking.PROPOSAL, Protection.INVALIDATE_LOCK)
    unordered = evidence.raced(Locking.PROPOSAL, Protection.SLOTS_LOCK)
    condition = ""
    if whole.harms or not without.harms:
        verdict = Verdict.FAILS
    elif not unordered.harms:
        verdict = Verdict.HOLDS
    elif all(map(_changes_slots_twice, unordered.harmful)):
        verdict = Verdict.HOLDS_IF
        condition = "slots_lock goes on ordering changes of a VM's slots; bindings do not need it"
    else:
        verdict = Verdict.FAILS
    return Judgement(
        "invalidate-lock-is-enough",
        "all accesses to the bindings xarray and kvm pointer can be serialized using "
        "filemap_invalidate_lock()",
        verdict,
        condition,
        (
            f"with all locks: {_coverage(whole)}",
            f"without the invalidate lock: {_coverage(without)}",
            f"without slots_lock: {_coverage(unordered)}; "
            + "; ".join(str(each) for each in unordered.harmful),
        ),
        schedules=(*without.harms.values(), *unordered.harms.values()),
    )


def _no_rcu(evidence: Evidence) -> Judgement:
    ours = evidence.raced(Locking.PROPOSAL)
    srcu = evidence.raced(Locking.PROPOSAL, Protection.SRCU_GRACE)
    rcu = {Protection.RCU_GRACE, Protection.FILE_MEMORY, Protection.UNLESS_ZERO}
    theirs = evidence.raced(Locking.MAINLINE, Protection.FILE_MEMORY)
    newest = evidence.raced(Locking.NEWEST, Protection.FILE_MEMORY)
    condition = ""
    if ours.harms or rcu & set(PROTECTIONS[Locking.PROPOSAL]):
        verdict = Verdict.FAILS
    elif srcu.harms:
        verdict = Verdict.HOLDS_IF
        condition = "a slot is freed only after the vCPUs in kvm->srcu are gone, as today"
    else:
        verdict = Verdict.HOLDS
    return Judgement(
        "rcu-is-unnecessary",
        "we don't need to use RCU on file/kvm pointers since accesses are already serialized",
        verdict,
        condition,
        (
            f"memslot-pins-file, nothing of RCU: {_coverage(ours)}",
            f"the same without the SRCU grace: {_coverage(srcu)}",
            f"mainline, file memory not kept for RCU readers: {_coverage(theirs)}",
            "the same where a fault shares the invalidate lock, as in the newest kernels: "
            f"{_coverage(newest)}",
        ),
        schedules=(*srcu.harms.values(), *theirs.harms.values()),
    )


def no_clean_up(evidence: Evidence, *, torn_is_harm: bool = True) -> Judgement:
    """Judge that release has nothing to do; `torn_is_harm` is an assumption of it."""
    found = evidence.explored(MAIL)
    whole = evidence.raced(Locking.PROPOSAL)
    torn = evidence.raced(Locking.PROPOSAL, Protection.SLOTS_FIRST, torn_is_harm=torn_is_harm)
    sound = all(
        found.holds(name)
        for name in ("nothing-dangles", "mappings-have-backing", "everything-is-freed")
    )
    empty = not MAIL.lifecycle.of(Event.RELEASE_FILE)
    condition = ""
    if not sound or not empty or whole.harms:
        verdict = Verdict.FAILS
    elif torn.harms:
        verdict = Verdict.HOLDS_IF
        condition = (
            "a dying VM deletes its slots before its MMU is torn down; kvm_destroy_vm does it after"
        )
    else:
        verdict = Verdict.HOLDS
    return Judgement(
        "no-clean-up-in-release",
        "no need to specially clean up the associated KVM when the file reference close",
        verdict,
        condition,
        (
            f"{counted(found)}; release has no effect, nothing dangles and nothing is left",
            f"slots first: {_coverage(whole)}",
            f"MMU first, as kvm_destroy_vm today: {_coverage(torn)}",
        ),
        schedules=tuple(torn.harms.values()),
    )


def _one_vm(evidence: Evidence) -> Judgement:
    found, whole = evidence.explored(MAIL), evidence.raced(Locking.PROPOSAL)
    good = found.holds("one-vm-per-file") and Harm.TWO_VMS not in whole.harms
    return Judgement(
        "one-vm-at-a-time",
        "we can enforce that a gmem file is used only with one VM",
        Verdict.HOLDS if good else Verdict.FAILS,
        "",
        (counted(found), f"concurrently: {_coverage(whole)}"),
    )


def _contents(evidence: Evidence) -> Judgement:
    found = evidence.explored(MAIL)
    name = "contents-stay"
    stories = (found.stories[name],) if name in found.stories else ()
    return Judgement(
        "one-vm-for-its-contents",
        "When the binding to the last memslot is removed from a file, NULL the kvm pointer",
        Verdict.HOLDS if found.holds(name) else Verdict.FAILS,
        "",
        (counted(found), f"{name} {'holds' if not stories else 'does not hold'}"),
        stories,
    )


def _bare_pointer(evidence: Evidence) -> Judgement:
    bare, owned = evidence.explored(BARE), evidence.explored(OWNED)
    name = "contents-stay"
    if bare.holds(name):
        verdict, condition = Verdict.HOLDS, ""
    elif owned.holds(name):
        verdict, condition = Verdict.HOLDS_IF, "VMs are compared by identity: addresses come back"
    else:
        verdict, condition = Verdict.FAILS, ""
    return Judgement(
        "pointers-tell-vms-apart",
        "if a kvm pointer exists, it must be the same kvm as the one in this binding",
        verdict,
        condition,
        (counted(bare), counted(owned)),
        tuple(each.stories[name] for each in (bare, owned) if name in each.stories),
    )


def _permission(evidence: Evidence) -> Judgement:
    plain, owned = evidence.explored(MAIL), evidence.explored(OWNED)
    broken = [each.name for each in INVARIANTS if not owned.holds(each.name)]
    if broken:
        verdict, condition = Verdict.FAILS, ""
    elif plain.holds("contents-stay"):
        verdict, condition = Verdict.HOLDS, ""
    else:
        verdict, condition = Verdict.HOLDS_IF, "the inode keeps its first VM's identity"
        outlived = [each.name for each in OWNERSHIP if not owned.holds(each.name)]
        if outlived:
            condition += ", and memory may outlive the VM that wrote it"
    return Judgement(
        "permission-at-first-binding",
        "The enforcement rules will just be delayed till the first binding",
        verdict,
        condition,
        (counted(plain), counted(owned), f"with an owner, violated: {broken or 'nothing'}"),
        tuple(found.stories["contents-stay"] for found in (plain,) if found.stories),
    )


def _system_ioctl(evidence: Evidence) -> Judgement:
    owned = evidence.explored(OWNED)
    wanted = [each.name for each in (*INVARIANTS, *WISHES)]
    broken = [name for name in wanted if not owned.holds(name)]
    linux, plain, judged = (evidence.within(each, TYPES) for each in (LINUX, MAIL, JUDGED))
    misfits = [_misfits(each) for each in (linux, plain, judged)]
    condition = ""
    if not OWNED.system_creation or broken or misfits[2]:
        verdict = Verdict.FAILS
    elif misfits[1]:
        verdict = Verdict.HOLDS_IF
        condition = (
            "the first binding judges the file's flags again: which ones there are depends on the "
            "VM's type"
        )
    else:
        verdict = Verdict.HOLDS
    return Judgement(
        "system-ioctl",
        "the file won't be associated with any kvm, and we can use a system ioctl",
        verdict,
        condition,
        (
            counted(owned),
            f"created for no VM; violated: {broken or 'nothing'}",
            *(
                f"with two types of VMs, {counted(each)}; violated: {', '.join(found) or 'nothing'}"
                for each, found in zip((linux, plain, judged), misfits, strict=True)
            ),
        ),
        tuple(plain.stories[name] for name in misfits[1]),
    )


def _misfits(found: Exploration) -> list[str]:
    return [
        name for name in ("flags-fit-the-type", "private-stays-private") if not found.holds(name)
    ]
