# SPDX-License-Identifier: MIT
"""The mail's claims, one by one: a verdict that follows from explorations, and its evidence.

Nothing here is decided beforehand: each judgement asks `Evidence` for runs and reads its verdict
off their results, so a change of a rule changes the verdict.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pyvmm.lifetime.designs import Design, Remedy, file_pins_vm, memslot_pins_file
from pyvmm.lifetime.endings import Locking
from pyvmm.lifetime.explorer import Exploration, explore
from pyvmm.lifetime.locks import Floor, Harm, Protection
from pyvmm.lifetime.programs import Act, Task, Writer
from pyvmm.lifetime.properties import INVARIANTS, WISHES
from pyvmm.lifetime.races import PROTECTIONS, Races, Scenario, Schedule, run_races, scenarios
from pyvmm.lifetime.story import Story
from pyvmm.lifetime.universe import STANDARD, Universe
from pyvmm.rules.lifecycle import Event

MAIL = memslot_pins_file()
LINUX = file_pins_vm()
OWNED = memslot_pins_file(Remedy.OWNER_IN_INODE)
BARE = memslot_pins_file(Remedy.NEVER_REBIND)


class Verdict(enum.Enum):
    """What the runs say of a claim."""

    HOLDS = "holds"
    HOLDS_IF = "holds only if"
    FAILS = "does not hold"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A claim in the mail's words, its verdict, the condition where there is one, and why."""

    name: str
    quote: str
    verdict: Verdict
    condition: str
    because: tuple[str, ...]
    stories: tuple[Story, ...] = ()
    schedules: tuple[Schedule, ...] = ()

    def lines(self) -> list[str]:
        """The judgement as text; stories and schedules are told by their own `lines`."""
        told = [f'{self.name}: "{self.quote}"', f"  {self.verdict.value} {self.condition}".rstrip()]
        return [*told, *(f"  - {each}" for each in self.because)]


@dataclass
class Evidence:
    """Runs explorations when they are first asked for, and keeps them.

    `sizes`: how many operations run at the same time in races.
    """

    universe: Universe = STANDARD
    sizes: tuple[int, ...] = (2, 3)
    progress: Callable[[str], None] | None = None
    _explored: dict[str, Exploration] = field(default_factory=dict)
    _raced: dict[tuple[Locking, frozenset[Protection]], Races] = field(default_factory=dict)

    def explored(self, design: Design) -> Exploration:
        """The sequential exploration of a design."""
        found = self._explored.get(design.name)
        if found is None:
            self._tell(f"exploring {design.name}")
            found = self._explored[design.name] = explore(design, self.universe)
        return found

    def raced(self, locking: Locking, *dropped: Protection) -> Races:
        """The interleavings of one locking; with something dropped, of two operations."""
        key = (locking, frozenset(dropped))
        found = self._raced.get(key)
        if found is None:
            names = " and ".join(each.name for each in dropped)
            self._tell(f"racing {locking.name}" + (f" without {names}" if names else ""))
            sizes: Iterable[int] = (2,) if dropped else self.sizes
            found = run_races(locking, scenarios(sizes), dropped=frozenset(dropped))
            self._raced[key] = found
        return found

    def _tell(self, what: str) -> None:
        if self.progress is not None:
            self.progress(what)


@dataclass(frozen=True, slots=True)
class Size:
    """How large a design is, by what can be counted.

    `effects` are the rules of its life cycle; `steps` and `locks` those of one program of each act,
    to the end that releases and frees; `protections` what must not be dropped.
    """

    states: int
    transitions: int
    effects: int
    steps: int
    locks: int
    protections: int


def size_of(evidence: Evidence, design: Design, locking: Locking) -> Size:
    """Count a design's parts."""
    floor = Floor(frozenset(PROTECTIONS[locking]), locking is Locking.PROPOSAL)
    programs = [Writer(locking, floor).program(Task(act)) for act in Act]
    found = evidence.explored(design)
    return Size(
        found.states,
        found.transitions,
        len(design.lifecycle.rules()),
        sum(len(each.names) for each in programs),
        sum(name.startswith("lock ") for each in programs for name in each.names),
        len(PROTECTIONS[locking]),
    )


def judge_all(evidence: Evidence) -> tuple[Judgement, ...]:
    """Every claim of the mail."""
    return tuple(
        each(evidence)
        for each in (
            _closing,
            _false_handle,
            _invalidate_lock,
            _no_rcu,
            _no_clean_up,
            _one_vm,
            _contents,
            _bare_pointer,
            _permission,
            _system_ioctl,
            _simpler,
        )
    )


def _coverage(races: Races) -> str:
    return (
        f"{races.scenarios} scenarios, {races.states} states, {races.steps} steps, "
        f"{races.schedules} schedules: {_harm_names(races)}"
    )


def _harm_names(races: Races) -> str:
    return ", ".join(sorted(harm.value for harm in races.harms)) or "no harm"


def _counted(found: Exploration) -> str:
    return f"{found.design.name}: {found.states} states, {found.transitions} transitions"


def _wish(evidence: Evidence, name: str, quote: str, wish: str) -> Judgement:
    theirs, ours = evidence.explored(LINUX), evidence.explored(MAIL)
    verdict = Verdict.HOLDS if ours.holds(wish) and not theirs.holds(wish) else Verdict.FAILS
    stories = tuple(found.stories[wish] for found in (theirs, ours) if wish in found.stories)
    because = tuple(
        f"{_counted(found)}; {wish} {'holds' if found.holds(wish) else 'does not hold'}"
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
    """Whether two of its tasks change slots of one VM: what slots_lock is there for anyway."""
    vms = [task.vm for task in scenario.tasks if task.act in (Act.BIND, Act.UNBIND)]
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
        ),
        schedules=(*srcu.harms.values(), *theirs.harms.values()),
    )


def _no_clean_up(evidence: Evidence) -> Judgement:
    found = evidence.explored(MAIL)
    whole = evidence.raced(Locking.PROPOSAL)
    torn = evidence.raced(Locking.PROPOSAL, Protection.SLOTS_FIRST)
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
            f"{_counted(found)}; release has no effect, nothing dangles and nothing is left",
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
        (_counted(found), f"concurrently: {_coverage(whole)}"),
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
        (_counted(found), f"{name} {'holds' if not stories else 'does not hold'}"),
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
        (_counted(bare), _counted(owned)),
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
    return Judgement(
        "permission-at-first-binding",
        "The enforcement rules will just be delayed till the first binding",
        verdict,
        condition,
        (_counted(plain), _counted(owned), f"with an owner, violated: {broken or 'nothing'}"),
        tuple(found.stories["contents-stay"] for found in (plain,) if found.stories),
    )


def _system_ioctl(evidence: Evidence) -> Judgement:
    owned = evidence.explored(OWNED)
    wanted = [each.name for each in (*INVARIANTS, *WISHES)]
    broken = [name for name in wanted if not owned.holds(name)]
    works = OWNED.system_creation and not broken
    return Judgement(
        "system-ioctl",
        "the file won't be associated with any kvm, and we can use a system ioctl",
        Verdict.HOLDS if works else Verdict.FAILS,
        "",
        (_counted(owned), f"created for no VM; violated: {broken or 'nothing'}"),
        tuple(owned.stories[name] for name in broken),
    )


def _simpler(evidence: Evidence) -> Judgement:
    ours = size_of(evidence, MAIL, Locking.PROPOSAL)
    theirs = size_of(evidence, LINUX, Locking.MAINLINE)
    safe = size_of(evidence, OWNED, Locking.PROPOSAL)
    names = Size.__dataclass_fields__
    smaller = [name for name in names if getattr(ours, name) < getattr(theirs, name)]
    if len(smaller) == len(names):
        verdict, condition = Verdict.HOLDS, ""
    elif smaller:
        verdict, condition = Verdict.HOLDS_IF, f"simple means: {', '.join(smaller)}"
    else:
        verdict, condition = Verdict.FAILS, ""
    return Judgement(
        "simpler",
        "the KVM's memslots using the file approach is also simpler",
        verdict,
        condition,
        (
            f"file-pins-vm, mainline: {_numbers(theirs)}",
            f"memslot-pins-file: {_numbers(ours)}",
            f"with the owner that contents need: {_numbers(safe)}",
        ),
    )


def _numbers(size: Size) -> str:
    return ", ".join(f"{getattr(size, name)} {name}" for name in Size.__dataclass_fields__)
