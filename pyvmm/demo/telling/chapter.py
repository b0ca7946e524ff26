# SPDX-License-Identifier: MIT
"""Chapters: steps of one act each, with words and a question whose answer the outcome gives."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.demo.telling.acts import Act, Road
from pyvmm.demo.telling.outcomes import Content, Observed, Outcome
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import MIB
from pyvmm.memory.page_states import PageState


class Need(enum.Enum):
    """Ability that a chapter or a step needs of a host."""

    GUEST_MEMFD = "guest_memfd"
    MAPPED_FILES = "guest_memfd that the host maps"
    PRIVATE = "private memory"
    IN_PLACE = "conversion in place"
    LIVENESS = "debugfs"


class StageKind(enum.Enum):
    """Kind of stage."""

    BARE = "bare"
    """VMs, files and slots; a vCPU does one access at a time."""
    PRIVATE = "private"
    """A machine with private memory that runs the guest ``mailbox``."""
    PINS = "pins"
    """References: the design that a host has, and others beside it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Stage of a chapter or an exercise: sizes in bytes, `designs` those of a `PINS` stage."""

    kind: StageKind = StageKind.BARE
    memory: int = 16 * MIB
    window: int = 64 * 1024
    designs: tuple[str, ...] = ()
    host_side: bool = True
    """The design that a host's kernel has is carried out there, too."""


@dataclass(frozen=True, slots=True)
class Worked:
    """The act was not refused."""


@dataclass(frozen=True, slots=True)
class RefusedWith:
    """The act was refused with this errno."""

    errno: int


@dataclass(frozen=True, slots=True)
class ReadValue:
    """The byte that was read; None: there was none, as where a guest reads a hole (MMIO)."""

    value: int | None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The stage is as it was."""


@dataclass(frozen=True, slots=True)
class Holds:
    """The process holds so many things whose names begin with `kind`."""

    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Bound:
    """So many memslots, of any VM, are bound to a file."""

    file: int
    slots: int


@dataclass(frozen=True, slots=True)
class Sees:
    """An attacker got this by a road."""

    road: Road
    content: Content


@dataclass(frozen=True, slots=True)
class StateIs:
    """The page of VM 0 at a GPA has this state; None: no memory is there."""

    gpa: int
    state: PageState | None


@dataclass(frozen=True, slots=True)
class ResidentAt:
    """The kernel holds the page of VM 0 at a GPA for a side, or does not."""

    side: Side
    gpa: int
    resident: bool


@dataclass(frozen=True, slots=True)
class IsAlive:
    """An object exists, or does not: of `Observed.alive`, or as a design's scene names it.

    So ``vm 0`` without a `design`, and ``vm0`` or ``file0`` with one.
    """

    thing: str
    alive: bool
    design: str = ""


@dataclass(frozen=True, slots=True)
class Answers:
    """A design answers the operation so; see `outcomes.Answer`."""

    design: str
    answer: str


@dataclass(frozen=True, slots=True)
class Violates:
    """A design violates a property in this step, by the name that `lifetime.properties` has."""

    design: str
    name: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The guest left with an exit of this kind, a class of `hosts.exits`."""

    kind: str


@dataclass(frozen=True, slots=True)
class EndedWith:
    """The guest has ended with this status."""

    status: int


@dataclass(frozen=True, slots=True)
class SameDigest:
    """The launch has the digest of the one before, or another."""

    same: bool


@dataclass(frozen=True, slots=True)
class ReportAgrees:
    """The firmware has reported the digest of what was loaded, or another one."""

    agrees: bool


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of these is true."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class NoneOf:
    """Not one of these is true."""

    facts: tuple[Fact, ...]


Fact: TypeAlias = (
    Worked
    | RefusedWith
    | ReadValue
    | Unchanged
    | Holds
    | Bound
    | Sees
    | StateIs
    | ResidentAt
    | IsAlive
    | Answers
    | Violates
    | Exited
    | EndedWith
    | SameDigest
    | ReportAgrees
    | AllOf
    | NoneOf
)
"""A statement about an outcome, which is true of it or not."""


def is_true(fact: Fact, outcome: Outcome, before: Observed) -> bool:
    """Tell whether `fact` is true of an outcome; `before` was the stage's state."""
    match fact:
        case Worked():
            return not outcome.errno and outcome.was_attempted
        case RefusedWith(errno=number):
            return outcome.errno == number
        case ReadValue(value=value):
            return outcome.value == value
        case Unchanged():
            return outcome.after == before
        case Holds(kind=kind, count=count):
            return sum(one.startswith(kind) for one in outcome.after.held) == count
        case Sees(road=road, content=content):
            return any(one.road is road and one.content is content for one in outcome.seen)
        case Exited(kind=kind):
            return any(one.split(": ", 1)[-1].startswith(f"{kind}(") for one in outcome.exits)
        case SameDigest(same=same):
            return outcome.same_digest is same
        case Answers() | Violates():
            return _is_true_of_design(fact, outcome)
        case StateIs() | ResidentAt() | IsAlive() | EndedWith() | Bound() | ReportAgrees():
            return _is_true_of(fact, outcome.after)
        case AllOf(facts=facts):
            return all(is_true(one, outcome, before) for one in facts)
        case NoneOf(facts=facts):
            return not any(is_true(one, outcome, before) for one in facts)


def _is_true_of_design(fact: Answers | Violates, outcome: Outcome) -> bool:
    for one in outcome.answers:
        if one.design == fact.design:
            if isinstance(fact, Answers):
                return one.answer == fact.answer
            return fact.name in one.violated
    return False


def _is_true_of(
    fact: StateIs | ResidentAt | IsAlive | EndedWith | Bound | ReportAgrees, state: Observed
) -> bool:
    match fact:
        case ResidentAt(side=side, gpa=gpa, resident=resident):
            there = (one.range for one in state.resident if one.side is side and not one.vm)
            return any(one.contains(gpa, 1) for one in there) is resident
        case ReportAgrees(agrees=agrees):
            return bool(state.reported) and (state.measured == state.reported) is agrees
        case Bound(file=file, slots=slots):
            return sum(one[0] == file for one in state.bound) == slots
        case StateIs(gpa=gpa, state=wanted):
            found = (run.state for vm, run in state.memory if not vm and run.range.contains(gpa, 1))
            return next(found, None) is wanted
        case IsAlive(thing=thing, alive=alive, design=""):
            return (thing, alive) in state.alive
        case IsAlive(thing=thing, alive=alive, design=design):
            scenes = [scene for name, scene in state.scenes if name == design]
            return any((thing in dict(scene.objects)) is alive for scene in scenes)
        case EndedWith(status=status):
            return state.ended == status


@dataclass(frozen=True, slots=True)
class Choice:
    """A prediction: `key` for links, `words` for people; `because` is said where it came true."""

    key: str
    words: str
    fact: Fact
    because: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A question before a step. No answer is stored: of the choices at most one comes true."""

    asks: str
    choices: tuple[Choice, ...]


def came_true_of(question: Question | None, outcome: Outcome, before: Observed) -> str | None:
    """The key of the answer that an outcome made true; None for none, or without a question."""
    if question is None:
        return None
    found = (one.key for one in question.choices if is_true(one.fact, outcome, before))
    return next(found, None)


@dataclass(frozen=True, slots=True)
class Step:
    """One act. `id` is part of links, and never used again for another step.

    `says` at most three sentences before the act, `after` a sentence behind it. `tries` are acts
    that are offered here for trying. With `needs` that the chapter's stage cannot give the step is
    carried out on a stage of the model's of its own, which is then told.
    """

    id: str
    says: str
    act: Act
    question: Question | None = None
    after: str = ""
    tries: tuple[Act, ...] = ()
    needs: frozenset[Need] = frozenset()


@dataclass(frozen=True, slots=True)
class Chapter:
    """Steps on one stage. `aim` says in a sentence what one understands behind it.

    `exercise` is the number of the one that belongs to it; 0: none.
    """

    id: str
    title: str
    aim: str
    needs: frozenset[Need]
    steps: tuple[Step, ...]
    setup: Setup = Setup()
    exercise: int = 0


@dataclass(frozen=True, slots=True)
class Goal:
    """A fact that is to be true of the machine; `says` names it where it is not."""

    says: str
    fact: Fact


@dataclass(frozen=True, slots=True)
class Exercise:
    """A task on a stage of its own, on which `begins` has been carried out.

    It is solved when all goals are true at once (`telling.solving`): of the outcomes so far for
    facts about acts, of the stage's state for all else. `solution` is one way; `wrong` are ways
    that do not solve it.
    """

    number: int
    id: str
    task: str
    hints: tuple[str, str, str]
    needs: frozenset[Need]
    goals: tuple[Goal, ...]
    solution: tuple[Act, ...]
    wrong: tuple[tuple[Act, ...], ...]
    setup: Setup = Setup()
    begins: tuple[Act, ...] = ()


@dataclass(frozen=True, slots=True)
class Book:
    """The chapters in their order, and the exercises in that of their numbers.

    `glossary` has (term, what it means in a sentence) in alphabetical order.
    """

    chapters: tuple[Chapter, ...]
    exercises: tuple[Exercise, ...] = ()
    glossary: tuple[tuple[str, str], ...] = ()

    def following(self, chapter: Chapter) -> Chapter | None:
        """The chapter behind `chapter`, by its id; None behind the last."""
        at = [one.id for one in self.chapters].index(chapter.id) + 1
        return self.chapters[at] if at < len(self.chapters) else None
