# SPDX-License-Identifier: MIT
"""An exercise on a stage of its own: acts are carried out, and the stage is asked for the goals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pyvmm.demo.house.houses import Reading, Say, open_houses, unheard
from pyvmm.demo.telling.acts import Act, Look
from pyvmm.demo.telling.chapter import Exercise, Goal, Step
from pyvmm.demo.telling.moments import Moment
from pyvmm.demo.telling.orders import ActDone, DoAct, NotDone, OpenStage, StageLost, StageOpened
from pyvmm.demo.telling.outcomes import Observed, Staged, StageHost
from pyvmm.demo.telling.solving import Done, unmet
from pyvmm.errors import HostLacksError, InternalError, UsageError

_ATTEMPT = "go on with the exercise"


class Exercising:
    """One reader's attempt at an exercise. Used by one task; made by `exercising` and its like."""

    def __init__(self, exercise: Exercise, reading: Reading) -> None:
        """`reading` is not owned."""
        self.exercise = exercise
        self._reading = reading
        self._step = Step(exercise.id, exercise.task, Look())
        self._ticket = 0
        self._done: list[Done] = []
        self.staged: Staged | None = None
        self.observed = Observed()

    async def begin(self) -> None:
        """Open the stage in its start state, or anew: everything done before counts for nothing.

        Raises what opening a stage raises, and `StageGoneError`.
        """
        self._ticket += 1
        self._done.clear()
        begins = tuple(DoAct(act, self._ticket) for act in self.exercise.begins)
        told = await self._reading.carry_out(
            OpenStage(self.exercise.setup, self.exercise.needs, begins, self._ticket)
        )
        match told:
            case StageOpened(staged=staged, observed=observed):
                self.staged, self.observed = staged, observed
            case StageLost(why=why) | NotDone(why=why):
                raise HostLacksError(_ATTEMPT, why)

    async def do(self, act: Act) -> Moment:
        """Carry an act out; what came of it, with the states before and after.

        Raises `UsageError` for one that cannot be asked for here: the stage is as it was. Raises
        `HostLacksError` and `StageGoneError` where there is no stage any more.
        """
        assert self.staged is not None
        told = await self._reading.carry_out(DoAct(act, self._ticket))
        match told:
            case ActDone(outcome=outcome):
                before, self.observed = self.observed, outcome.after
                self._done.append(Done(before, outcome))
                return Moment(self._step, act, self.staged, None, None, before, outcome)
            case NotDone(why=why):
                raise UsageError(_ATTEMPT, why)
            case StageLost(why=why):
                raise HostLacksError(_ATTEMPT, why)
            case StageOpened():
                raise InternalError(_ATTEMPT, "a stage was opened that was not asked for")

    def unmet(self) -> Goal | None:
        """The first goal that is not met now; None: it is solved."""
        return unmet(self.exercise, self._done, self.observed)


@asynccontextmanager
async def exercising(
    exercise: Exercise, wish: StageHost | None, say: Say = unheard
) -> AsyncIterator[Exercising]:
    """An attempt at an exercise; behind the block nothing of any stage is left.

    `say` is told how the start of a lab goes.
    """
    async with open_houses(wish, say) as houses, houses.reading() as reading:
        yield Exercising(exercise, reading)
