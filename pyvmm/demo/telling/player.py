# SPDX-License-Identifier: MIT
"""A reader's place in the book: what a key or a click does, what is asked of a stage, what is seen.

Sans-I/O: `Player.move` and `Player.told` take values and give orders for a stage; whoever has one
carries them out. Back shows a moment that is kept, and touches no machine. To act from an earlier
step a new stage is opened, and all acts up to there are carried out again on it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TypeAlias

from pyvmm.demo.telling.acts import Act
from pyvmm.demo.telling.chapter import Book, Chapter, Need, Step, came_true_of
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.orders import (
    ActDone,
    DoAct,
    NotDone,
    OpenStage,
    Order,
    StageLost,
    StageOpened,
    Told,
    aside_for,
)
from pyvmm.demo.telling.outcomes import Observed, Outcome, Staged
from pyvmm.demo.telling.predictions import question_of

MOST_MOMENTS = 200
"""Moments of a chapter that are kept at most: behind them nothing of one's own is tried."""


class Plain(enum.Enum):
    """Move without arguments."""

    NEXT = "next"
    """Carry the step out, or go on to the following one, or to the chapter behind this."""
    BACK = "back"
    RESTART = "restart"
    SKIP = "skip"
    """Carry the step out without a prediction."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Go to the beginning of a chapter, or to a step: those before are carried out untold."""

    chapter: str
    step: str = ""


@dataclass(frozen=True, slots=True)
class Predict:
    """Choose an answer, by its key, and carry the step out."""

    key: str


@dataclass(frozen=True, slots=True)
class Try:
    """Carry out an act of the reader's own choice.

    `predicted` is the key of one of `question_of(act)`'s choices; None: no prediction.
    """

    act: Act
    predicted: str | None = None


@dataclass(frozen=True, slots=True)
class LookAt:
    """Look at a kept moment, by its number from 0: touches no machine."""

    moment: int


Move: TypeAlias = Plain | Jump | Predict | Try | LookAt


class Phase(enum.Enum):
    """Phase of a step."""

    OPENING = "opening"
    """A stage is on its way."""
    ASKING = "asking"
    """The step has not been carried out: a prediction, or Enter."""
    DOING = "doing"
    SHOWING = "showing"
    """The outcome is there."""
    ENDED = "ended"
    """The chapter's last step has been shown."""
    LOST = "lost"
    """The stage was lost; a restart opens another."""


@dataclass(frozen=True, slots=True)
class View:
    """All that a writer shows: `number` counts the chapter's steps from 1.

    `moment` is the outcome to be shown, of this step or of one that was gone back to; `moments` are
    all that is kept of the chapter, in order. `staged` and `observed` are the step's stage, which
    is another one than the chapter's for an aside, and its state now.
    """

    chapter: Chapter
    step: Step
    number: int
    phase: Phase
    staged: Staged | None
    moment: Moment | None
    notice: str
    is_last: bool
    observed: Observed
    moments: tuple[Moment, ...] = ()
    following: Chapter | None = None

    @property
    def link(self) -> str:
        """The place in a word, as `parse_link` takes it."""
        return f"{self.chapter.id}/{self.step.id}"


class Player:
    """One reader, at the beginning of a chapter or at a step; the first orders are `begin`'s."""

    def __init__(self, book: Book, start: str, step: str = "") -> None:
        """`start` names a chapter of the book; `step` one of its steps, or is empty."""
        self._book = book
        self._ticket = 0
        self._chapter = self._find(start)
        self._index = [one.id for one in self._chapter.steps].index(step) if step else 0
        self._looking: int | None = None
        self._phase = Phase.OPENING
        self._staged: Staged | None = None
        self._observed = Observed()
        self._aside = Observed()
        """State of the asides' stage, as far as it has been told."""
        self._lacks: frozenset[Need] = frozenset()
        self._moments: list[Moment] = []
        self._is_done = False
        """True once the step itself has been carried out."""
        self._predicted: str | None = None
        """Of the step; what was predicted of what is tried is in `_tried`."""
        self._tried: str | None = None
        self._doing: Act | None = None
        self._notice = ""

    def begin(self) -> tuple[Order, ...]:
        """Open the first stage."""
        return self._open_at(self._chapter, self._index)

    @property
    def view(self) -> View:
        """Everything that is to be shown now."""
        moment: Moment | None = None
        step = self._step
        if self._looking is not None:
            moment = self._moments[self._looking]
            step = moment.step
        elif self._phase in {Phase.SHOWING, Phase.ENDED} and self._moments:
            moment = self._moments[-1]
        number = self._chapter.steps.index(step) + 1
        aside = step.needs & self._lacks
        return View(
            self._chapter,
            step,
            number,
            Phase.SHOWING if self._looking is not None else self._phase,
            aside_for(aside) if aside else self._staged,
            moment,
            self._notice,
            is_last=number == len(self._chapter.steps),
            moments=self.moments,
            observed=self._aside if aside else self._observed,
            following=self._book.following(self._chapter),
        )

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Everything that has been seen of this chapter, in order."""
        return tuple(self._moments)

    @property
    def _step(self) -> Step:
        return self._chapter.steps[self._index]

    # -- moves --

    def move(self, move: Move) -> tuple[Order, ...]:
        """Take a move; one that does not fit becomes a notice and no order."""
        self._notice = ""
        match move:
            case Jump(chapter=name, step=step):
                return self._jump(name, step)
            case Plain.RESTART:
                return self._open_at(self._chapter, 0)
            case Plain.BACK:
                return self._back()
        if self._phase is Phase.LOST:
            return self._refuse("the stage was lost: restart the chapter")
        if self._phase in {Phase.OPENING, Phase.DOING}:
            return self._refuse("wait until it is done")
        if isinstance(move, LookAt):
            return self._look_at(move.moment)
        if self._looking is not None:
            return self._forward(move)
        match move:
            case Predict(key=key):
                return self._predict(key)
            case Try():
                return self._try(move)
            case Plain.NEXT | Plain.SKIP:
                return self._next()

    def _refuse(self, why: str) -> tuple[Order, ...]:
        self._notice = why
        return ()

    def _jump(self, name: str, step: str) -> tuple[Order, ...]:
        chapter = next((one for one in self._book.chapters if one.id == name), None)
        if chapter is None:
            return self._refuse(f"there is no chapter {name!r:.40}")
        ids = [one.id for one in chapter.steps]
        if step and step not in ids:
            return self._refuse(f"there is no step {step!r:.40} in {name}")
        return self._open_at(chapter, ids.index(step) if step else 0)

    def _back(self) -> tuple[Order, ...]:
        shown = len(self._moments)
        if self._phase is Phase.SHOWING or self._phase is Phase.ENDED:
            shown -= 1
        at = shown if self._looking is None else self._looking
        if at <= 0:
            return self._refuse("this is the beginning of the chapter")
        self._looking = at - 1
        return ()

    def _look_at(self, moment: int) -> tuple[Order, ...]:
        if not 0 <= moment < len(self._moments):
            return self._refuse("there is no such moment yet")
        is_newest = moment == len(self._moments) - 1
        is_shown = self._phase in {Phase.SHOWING, Phase.ENDED}
        self._looking = None if is_newest and is_shown else moment
        return ()

    def _forward(self, move: Plain | Predict | Try) -> tuple[Order, ...]:
        """A move while an earlier moment is looked at: on to the one behind it, or act from it."""
        at = self._looking
        assert at is not None
        if isinstance(move, Try):
            kept = self._moments[: at + 1]
            self._index = self._chapter.steps.index(kept[-1].step)
            orders = self._open(
                self._chapter, tuple((one.step, one.act) for one in kept), keep=kept
            )
            self._doing, self._tried = self._own(move.act), move.predicted
            self._notice = "on a new stage, with everything up to here carried out again:"
            return orders
        if isinstance(move, Predict):
            return self._refuse("this step has been carried out already")
        newest = len(self._moments) - (1 if self._phase in {Phase.SHOWING, Phase.ENDED} else 0)
        self._looking = at + 1 if at + 1 < newest else None
        return ()

    def _predict(self, key: str) -> tuple[Order, ...]:
        question = self._step.question
        if self._phase is not Phase.ASKING or question is None:
            return self._refuse("there is nothing to be predicted now")
        if all(one.key != key for one in question.choices):
            return self._refuse(f"there is no answer {key!r:.40}")
        self._predicted = key
        return self._do(self._step.act)

    def _next(self) -> tuple[Order, ...]:
        step = self._step
        if self._phase is Phase.ASKING:
            return self._do(step.act)
        if self._phase is Phase.ENDED and (following := self._book.following(self._chapter)):
            return self._open_at(following, 0)
        if not self._is_done:
            # Something else was tried before the step.
            self._phase = Phase.ASKING
            return ()
        if self._index + 1 == len(self._chapter.steps):
            self._phase = Phase.ENDED
            return ()
        self._index += 1
        self._predicted = None
        self._is_done = False
        self._phase = Phase.ASKING
        return ()

    def _try(self, move: Try) -> tuple[Order, ...]:
        if move.predicted is not None and all(
            one.key != move.predicted for one in question_of(move.act).choices
        ):
            return self._refuse(f"there is no answer {move.predicted!r:.40}")
        if len(self._moments) >= MOST_MOMENTS:
            return self._refuse(f"{MOST_MOMENTS} moments are kept: restart the chapter")
        self._tried = move.predicted
        return self._do(self._own(move.act))

    def _own(self, act: Act) -> Act:
        """`act` as one that is not the step's, even where it does the same."""
        return replace(act)

    def _do(self, act: Act) -> tuple[Order, ...]:
        self._phase = Phase.DOING
        self._doing = act
        return (DoAct(act, self._ticket, self._step.needs),)

    def _open_at(self, chapter: Chapter, index: int) -> tuple[Order, ...]:
        """Open a stage on which all before a step has been carried out."""
        orders = self._open(chapter, tuple((one, one.act) for one in chapter.steps[:index]))
        self._index = index
        return orders

    def _open(
        self,
        chapter: Chapter,
        replay: tuple[tuple[Step, Act], ...],
        keep: list[Moment] | None = None,
    ) -> tuple[Order, ...]:
        self._ticket += 1
        self._looking = None
        self._phase = Phase.OPENING
        self._predicted = None
        self._doing = None
        self._moments = keep or []
        if keep is None:
            self._chapter, self._index = chapter, 0
        self._is_done = any(not one.was_tried and one.step is self._step for one in self._moments)
        self._aside, self._lacks = Observed(), frozenset()
        again = tuple(DoAct(act, self._ticket, step.needs) for step, act in replay)
        return (OpenStage(chapter.setup, chapter.needs, again, self._ticket),)

    # -- what a stage tells --

    def told(self, told: Told) -> tuple[Order, ...]:
        """Take what became of an order; of a stage that was given up nothing is taken."""
        if told.ticket != self._ticket:
            return ()
        match told:
            case StageOpened(staged=staged, observed=observed, lacks=lacks, aside=aside):
                self._staged, self._observed = staged, observed
                self._lacks, self._aside = lacks, aside
                self._phase = Phase.ASKING
                if self._doing is not None:
                    return self._do(self._doing)
            case ActDone(outcome=outcome, staged=staged):
                self._keep(outcome, staged)
            case NotDone(why=why):
                self._phase = Phase.SHOWING if self._is_done else Phase.ASKING
                self._notice, self._doing = why, None
            case StageLost(why=why):
                self._phase, self._notice = Phase.LOST, why
        return ()

    def lose(self, why: str) -> None:
        """Take that there is no stage any more, whatever was asked of it."""
        self._phase, self._notice, self._looking = Phase.LOST, why, None

    def _keep(self, outcome: Outcome, aside: Staged | None) -> None:
        """Keep what became of an act; `aside` is its stage where that is not the chapter's."""
        step, act = self._step, self._doing
        assert act is not None
        assert self._staged is not None
        is_step = act is step.act
        question = step.question if is_step else question_of(act)
        before = self._observed if aside is None else self._aside
        came_true = came_true_of(question, outcome, before)
        self._moments.append(
            Moment(
                step,
                act,
                aside or self._staged,
                self._predicted if is_step else self._tried,
                came_true,
                before,
                outcome,
            )
        )
        self._is_done = self._is_done or is_step
        if aside is None:
            self._observed = outcome.after
        else:
            self._aside = outcome.after
        self._doing = None
        self._phase = Phase.SHOWING

    def _find(self, name: str) -> Chapter:
        return next(one for one in self._book.chapters if one.id == name)
