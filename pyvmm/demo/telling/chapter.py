# SPDX-License-Identifier: MIT
"""Chapters: steps of one act each, with words and a question whose answer the outcome gives."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.demo.telling.acts import Act
from pyvmm.demo.telling.outcomes import Observed, Outcome


class Need(enum.Enum):
    """Ability that a chapter needs of a host."""

    GUEST_MEMFD = "guest_memfd"
    MAPPED_FILES = "guest_memfd that the host maps"
    PRIVATE = "private memory"


@dataclass(frozen=True, slots=True)
class Worked:
    """The act was not refused."""


@dataclass(frozen=True, slots=True)
class RefusedWith:
    """The act was refused with this errno."""

    errno: int


@dataclass(frozen=True, slots=True)
class ReadValue:
    """The byte that was read."""

    value: int


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The stage is as it was."""


@dataclass(frozen=True, slots=True)
class Holds:
    """The process holds so many things whose names begin with `kind`."""

    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every one of these is true."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class NoneOf:
    """Not one of these is true."""

    facts: tuple[Fact, ...]


Fact: TypeAlias = Worked | RefusedWith | ReadValue | Unchanged | Holds | AllOf | NoneOf
"""A statement about an outcome, which is true of it or not."""


def is_true(fact: Fact, outcome: Outcome, before: Observed) -> bool:
    """Tell whether `fact` is true of an outcome; `before` was the stage's state."""
    match fact:
        case Worked():
            return not outcome.errno
        case RefusedWith(errno=number):
            return outcome.errno == number
        case ReadValue(value=value):
            return outcome.value == value
        case Unchanged():
            return outcome.after == before
        case Holds(kind=kind, count=count):
            return sum(one.startswith(kind) for one in outcome.after.held) == count
        case AllOf(facts=facts):
            return all(is_true(one, outcome, before) for one in facts)
        case NoneOf(facts=facts):
            return not any(is_true(one, outcome, before) for one in facts)


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


@dataclass(frozen=True, slots=True)
class Step:
    """One act. `id` is part of links, and never used again for another step.

    `says` at most three sentences before the act, `after` a sentence behind it.
    """

    id: str
    says: str
    act: Act
    question: Question | None = None
    after: str = ""
    tries: tuple[Act, ...] = ()


@dataclass(frozen=True, slots=True)
class Chapter:
    """Steps on one stage. `aim` says in a sentence what one understands behind it."""

    id: str
    title: str
    aim: str
    needs: frozenset[Need]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """The chapters in their order."""

    chapters: tuple[Chapter, ...]
