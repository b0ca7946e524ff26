# SPDX-License-Identifier: MIT
"""The question before an act of the reader's own choice: what may come of it.

Refusals that are offered are those that KVM's rules know for the call that the act makes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pyvmm.demo.telling.acts import (
    Act,
    Attack,
    Boot,
    Hole,
    MakeFile,
    MakeVm,
    MapFile,
    Read,
    SetAttributes,
    SetSlot,
)
from pyvmm.demo.telling.chapter import (
    AllOf,
    Choice,
    NoneOf,
    Question,
    ReadValue,
    RefusedWith,
    SameDigest,
    Sees,
    Worked,
)
from pyvmm.demo.telling.outcomes import Content
from pyvmm.rules.catalogue import REFUSALS
from pyvmm.rules.profile import MAINLINE, SHARED_ONLY
from pyvmm.rules.rule import errno_name

_OPERATIONS: Mapping[type[object], str] = {
    MakeVm: "KVM_CREATE_VM",
    MakeFile: "KVM_CREATE_GUEST_MEMFD",
    SetSlot: "KVM_SET_USER_MEMORY_REGION2",
    SetAttributes: "KVM_SET_MEMORY_ATTRIBUTES",
    Hole: "fallocate",
    MapFile: "mmap",
}
_CONTENT = {
    Content.SECRET: "what the guest wrote there",
    Content.ZERO: "zeroes",
    Content.OTHER: "other bytes",
    Content.REFUSED: "nothing: the road is closed",
}


def question_of(act: Act) -> Question:
    """The question that comes before an act that a reader tries: exactly one answer comes true."""
    match act:
        case Attack(road=road):
            choices = [
                Choice(content.name.lower(), words, Sees(road, content))
                for content, words in _CONTENT.items()
            ]
            seen = tuple(one.fact for one in choices)
            choices.append(Choice("else", "something else", NoneOf(seen)))
            return Question("Who tries this gets:", tuple(choices))
        case Read():
            other = AllOf((Worked(), NoneOf((ReadValue(0), ReadValue(None)))))
            return Question(
                "The byte is:",
                (
                    Choice("zero", "zero", AllOf((Worked(), ReadValue(0)))),
                    Choice("other", "another", other),
                    Choice("none", "none: no memory is there", AllOf((Worked(), ReadValue(None)))),
                    Choice("refused", "not to be had: it is refused", NoneOf((Worked(),))),
                ),
            )
        case Boot():
            return Question(
                "The digest of this launch is:",
                (
                    Choice("same", "that of the launch before", SameDigest(same=True)),
                    Choice("other", "another", SameDigest(same=False)),
                    Choice(
                        "first",
                        "the first one: there is none to compare it with",
                        NoneOf((SameDigest(same=True), SameDigest(same=False))),
                    ),
                ),
            )
    return _works_or_not(_OPERATIONS.get(type(act), ""))


def _works_or_not(operation: str) -> Question:
    rules = REFUSALS.get(operation, ())
    profiles = (MAINLINE, SHARED_ONLY)
    numbers = sorted({rule.errno_for(profile) for rule in rules for profile in profiles})
    choices = [Choice("worked", "it works", Worked())]
    for number in numbers:
        name = errno_name(number)
        choices.append(Choice(name.lower(), f"refused: {name}", RefusedWith(number)))
    rest = "refused: another errno" if numbers else "it is refused"
    choices.append(Choice("refused", rest, NoneOf(tuple(one.fact for one in choices))))
    return Question("The answer is:", tuple(choices))
