# SPDX-License-Identifier: MIT
"""The mail's closing question: sufficient for which memory, and simpler in what.

Two kinds of memory are told apart. *Software-protected* memory is kept by the kernel alone: whoever
binds a file later must not find what others left there. *Owned* memory belongs to a virtual machine
in hardware (SNP's RMP entries under an ASID, TDX's pages under an HKID): it must not outlive that,
and only that can give it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pyvmm.lifetime.designs import (
    STANDARD_DESIGNS,
    Design,
    Remedy,
    file_pins_vm,
    file_pins_vm_moving_files,
    file_pins_vm_with_any_link,
    memslot_pins_file,
)
from pyvmm.lifetime.evidence import Evidence, Judgement, Verdict, counted
from pyvmm.lifetime.explorer import Exploration
from pyvmm.lifetime.locks import Floor
from pyvmm.lifetime.programs import Writer
from pyvmm.lifetime.properties import (
    BY_NAME,
    INVARIANTS,
    OWNERSHIP,
    Property,
)
from pyvmm.lifetime.race_starts import PROTECTIONS
from pyvmm.lifetime.race_tasks import ACTS_OF_A_DESIGN, Task
from pyvmm.lifetime.steps import Locking
from pyvmm.lifetime.universe import LINKED, MOVED, UPDATED
from pyvmm.rules.lifecycle import MACHINE_EFFECTS

_SOFTWARE_PROTECTED = (*INVARIANTS, BY_NAME["slots-keep-contents"])
_OWNED = (*_SOFTWARE_PROTECTED, *OWNERSHIP, BY_NAME["cleared-by-owner"])
_HANDED_ON = (BY_NAME["contents-stay"], *OWNERSHIP)
_LINKED = (*_HANDED_ON, BY_NAME["helper-dies-first"])
_QUESTION = (
    "Could binding gmem files not on creation, but at memslot configuration time be sufficient "
    "and simpler?"
)


@dataclass(frozen=True, slots=True)
class Sufficiency:
    """A design, and the names of the properties that it lacks for each kind of memory.

    `linked`, `moved`, `updated`: what it lacks where files are linked, where a VM takes another's
    virtual machine over, and where the kernel is replaced: of that which this can break. `moves`
    and `updates` are the steps in which a VM finds what its predecessor wrote, None where it
    never does.
    """

    design: Design
    software_protected: tuple[str, ...]
    owned: tuple[str, ...]
    linked: tuple[str, ...]
    moved: tuple[str, ...]
    updated: tuple[str, ...]
    moves: int | None
    updates: int | None


def sufficiency(evidence: Evidence) -> tuple[Sufficiency, ...]:
    """Each design and remedy; and Linux's with links for anybody, and with files that move."""
    variants = (file_pins_vm_with_any_link(), file_pins_vm_moving_files())
    found = []
    for design in (*STANDARD_DESIGNS, *variants):
        moved, updated = evidence.within(design, MOVED), evidence.within(design, UPDATED)
        found.append(
            Sufficiency(
                design,
                _lacking(evidence.explored(design), _SOFTWARE_PROTECTED),
                _lacking(evidence.explored(design), _OWNED),
                _lacking(evidence.within(design, LINKED), _LINKED),
                _lacking(moved, _LINKED),
                _lacking(updated, _HANDED_ON),
                _reboot(moved),
                _reboot(updated),
            )
        )
    return tuple(found)


def _reboot(found: Exploration) -> int | None:
    story = found.stories.get("reboot")
    return None if story is None else len(story.steps)


def _lacking(found: Exploration, properties: Iterable[Property]) -> tuple[str, ...]:
    return tuple(each.name for each in properties if not found.holds(each.name))


def sufficient(evidence: Evidence) -> Judgement:
    """The question's first half, of the mail's design with at most one remedy."""
    rows = [each for each in sufficiency(evidence) if each.design.system_creation]
    for_software = [_remedy(each.design) for each in rows if not each.software_protected]
    for_owned = [_remedy(each.design) for each in rows if not each.owned]
    if not for_software:
        verdict, condition = Verdict.FAILS, ""
    elif not rows[0].owned:
        verdict, condition = Verdict.HOLDS, ""
    else:
        verdict = Verdict.HOLDS_IF
        condition = (
            f"memory is software-protected, with {' or '.join(for_software)}; for memory that "
            f"belongs to a virtual machine {' or '.join(for_owned) or 'no remedy'} does"
        )
    stories = evidence.explored(rows[0].design).stories
    return Judgement(
        "sufficient",
        _QUESTION,
        verdict,
        condition,
        tuple(
            f"{counted(evidence.explored(each.design))}; owned memory lacks "
            f"{', '.join(each.owned) or 'nothing'}"
            for each in rows
        ),
        tuple(stories[each.name] for each in OWNERSHIP if each.name in stories),
    )


def _remedy(design: Design) -> str:
    return design.name.partition(" + ")[2] or "no remedy"


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a design by what can be counted, in this encoding of it.

    `effects` are the rules of its life cycle; of these, `references` are taken, and `edge_cases`
    happen under a condition only; `steps` and `locks` are those of one program of each act, to the
    end that releases and frees; `protections` what must not be dropped.
    """

    states: int
    transitions: int
    effects: int
    references: int
    edge_cases: int
    steps: int
    locks: int
    protections: int

    def __str__(self) -> str:
        return ", ".join(
            f"{getattr(self, name)} {name.replace('_', ' ')}" for name in self.__dataclass_fields__
        )


def size_of(evidence: Evidence, design: Design, locking: Locking) -> Size:
    """Count a design's parts."""
    floor = Floor(frozenset(PROTECTIONS[locking]), locking is Locking.PROPOSAL)
    programs = [Writer(locking, floor).program(Task(act)) for act in ACTS_OF_A_DESIGN]
    found = evidence.explored(design)
    effects = [each for _, each in design.lifecycle.rules() if each not in MACHINE_EFFECTS]
    return Size(
        found.states,
        found.transitions,
        len(effects),
        sum(effect.name.endswith(("TAKES_VM", "TAKES_FILE")) for effect in set(effects)),
        sum(effect.value.startswith("where ") for effect in effects),
        sum(len(each.names) for each in programs),
        sum(name.startswith("lock ") for each in programs for name in each.names),
        len(PROTECTIONS[locking]),
    )


def simpler(evidence: Evidence) -> Judgement:
    """The question's second half."""
    ours = size_of(evidence, memslot_pins_file(), Locking.PROPOSAL)
    theirs = size_of(evidence, file_pins_vm(), Locking.MAINLINE)
    remedied = [memslot_pins_file(remedy) for remedy in Remedy]
    names = Size.__dataclass_fields__
    smaller = [name for name in names if getattr(ours, name) < getattr(theirs, name)]
    if len(smaller) == len(names):
        verdict, condition = Verdict.HOLDS, ""
    elif smaller:
        verdict = Verdict.HOLDS_IF
        condition = f"simple means fewer {', '.join(smaller)}"
    else:
        verdict, condition = Verdict.FAILS, ""
    return Judgement(
        "simpler",
        "the KVM's memslots using the file approach is also simpler",
        verdict,
        condition.replace("_", " "),
        (
            f"file-pins-vm, mainline: {theirs}",
            f"memslot-pins-file: {ours}",
            *(f"{each.name}: {size_of(evidence, each, Locking.PROPOSAL)}" for each in remedied),
        ),
    )
