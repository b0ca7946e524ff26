# SPDX-License-Identifier: MIT
"""Serving of one reader's orders, one after the other: the chapter's stage, and that of asides."""

from __future__ import annotations

import trio

from pyvmm.demo.house.lines import Answer, Asked, NoStage, OpenOn
from pyvmm.demo.stage.held import Held
from pyvmm.demo.stage.stage import Stage, open_stage
from pyvmm.demo.telling.chapter import Need, Setup
from pyvmm.demo.telling.orders import (
    ActDone,
    DoAct,
    NotDone,
    OpenStage,
    StageLost,
    StageOpened,
    aside_for,
)
from pyvmm.demo.telling.outcomes import Observed, Outcome, Staged, StageHost
from pyvmm.errors import PyvmmError, UsageError


class Serving:
    """One reader's stages, in this process. Used by one task; `close` frees them."""

    def __init__(self, nursery: trio.Nursery) -> None:
        """`nursery` is the one that holds stages open."""
        self._nursery = nursery
        self._setup = Setup()
        self._held: Held[Stage] | None = None
        self._aside: Held[Stage] | None = None

    async def answer(self, asked: Asked) -> Answer:
        """Carry an order out. Raises nothing of the tree of errors."""
        match asked:
            case OpenOn(host=host, order=order):
                return await self._open(order, host)
            case DoAct(ticket=ticket):
                try:
                    return await self._do(asked)
                except UsageError as error:
                    return NotDone(f"that cannot be tried: {error.cause}", ticket)
                except PyvmmError as error:
                    return StageLost(str(error), ticket)

    async def close(self) -> None:
        """Free the stages, and wait until that is done; a second call does nothing."""
        for held in (self._aside, self._held):
            if held is not None:
                await held.let_go()
        self._aside = self._held = None

    async def _open(self, order: OpenStage, host: StageHost) -> StageOpened | NoStage | StageLost:
        await self.close()
        self._setup = order.setup
        try:
            opened = open_stage(order.setup, order.needs, host)
            self._held = held = await Held.hold(self._nursery, opened)
        except PyvmmError as error:
            return NoStage(
                int(error.exit_code), error.attempt, error.cause, error.remedy, order.ticket
            )
        try:
            for one in order.replay:
                await self._done(one)
            return await self._opened(held.thing, order.ticket)
        except PyvmmError as error:
            await self.close()
            return StageLost(f"not all could be carried out again: {error.cause}", order.ticket)

    async def _opened(self, stage: Stage, ticket: int) -> StageOpened:
        aside = Observed() if self._aside is None else await self._aside.thing.observe()
        observed = await stage.observe()
        return StageOpened(stage.staged, observed, ticket, _lacking(stage), aside)

    async def _do(self, order: DoAct) -> ActDone:
        outcome, aside = await self._done(order)
        return ActDone(outcome, order.ticket, aside)

    async def _done(self, order: DoAct) -> tuple[Outcome, Staged | None]:
        """Carry an act out: its outcome, and the stage where that is another than the chapter's."""
        if self._held is None:
            raise UsageError("carry an act out", "there is no stage")
        stage = self._held.thing
        lacking = order.needs & _lacking(stage)
        if not lacking:
            return await stage.do(order.act), None
        if self._aside is None:
            opened = open_stage(self._setup, frozenset(), StageHost.MODEL)
            self._aside = await Held.hold(self._nursery, opened)
        return await self._aside.thing.do(order.act), aside_for(lacking)


def _lacking(stage: Stage) -> frozenset[Need]:
    """Abilities for which there is the asides' stage; the model gets none, being one itself."""
    if stage.staged.host is StageHost.MODEL:
        return frozenset()
    return frozenset(Need) - stage.offers
