# SPDX-License-Identifier: MIT
"""Orders of a player for a stage, and what is told of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from pyvmm.demo.telling.acts import Act
from pyvmm.demo.telling.chapter import Need, Setup
from pyvmm.demo.telling.outcomes import Observed, Outcome, Staged, StageHost


@dataclass(frozen=True, slots=True)
class DoAct:
    """Carry an act out; with `needs` beyond what the stage can give it is an aside.

    All asides since the stage was opened are carried out on one other stage, which is the model's.
    """

    act: Act
    ticket: int
    needs: frozenset[Need] = frozenset()


def aside_for(lacking: frozenset[Need]) -> Staged:
    """The stage of an act that needs what its chapter's stage has not."""
    words = " and no ".join(sorted(one.value for one in lacking))
    return Staged(StageHost.MODEL, why=f"this chapter's kernel has no {words}")


@dataclass(frozen=True, slots=True)
class OpenStage:
    """Open a stage for a chapter, closing the one there was, and carry these acts out on it.

    Their outcomes are not told.
    """

    setup: Setup
    needs: frozenset[Need]
    replay: tuple[DoAct, ...]
    ticket: int


Order: TypeAlias = OpenStage | DoAct


@dataclass(frozen=True, slots=True)
class StageOpened:
    """A stage is there, in this state.

    An act that needs one of `lacks` is an aside; `aside` is the state of the asides' stage.
    """

    staged: Staged
    observed: Observed
    ticket: int
    lacks: frozenset[Need] = frozenset()
    aside: Observed = field(default_factory=Observed)


@dataclass(frozen=True, slots=True)
class ActDone:
    """An act has been carried out; `staged` where that was on another stage than the chapter's."""

    outcome: Outcome
    ticket: int
    staged: Staged | None = None


@dataclass(frozen=True, slots=True)
class NotDone:
    """An act could not be asked for: why, in a sentence. The stage is as it was."""

    why: str
    ticket: int


@dataclass(frozen=True, slots=True)
class StageLost:
    """There is no stage any more, or none could be had: why, in a sentence."""

    why: str
    ticket: int


Told: TypeAlias = StageOpened | ActDone | NotDone | StageLost
