# SPDX-License-Identifier: MIT
"""A player and its stage: orders are carried out, and what comes of them is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from pyvmm.demo.stage.held import HeldStage
from pyvmm.demo.stage.stage import open_stage
from pyvmm.demo.telling.orders import (
    ActDone,
    DoAct,
    NotDone,
    OpenStage,
    Order,
    StageLost,
    StageOpened,
    Told,
)
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import Move, Player
from pyvmm.errors import PyvmmError, UsageError


class Playing:
    """One reader with a stage of their own, in this process. Used by one task; see `playing`."""

    def __init__(self, player: Player, wish: StageHost | None, nursery: trio.Nursery) -> None:
        self.player = player
        self._wish = wish
        self._nursery = nursery
        self._held: HeldStage | None = None
        self._has_played = False

    async def begin(self) -> None:
        """Open the first stage. Raises `HostLacksError` and `NoPermissionError` for a bad wish."""
        await self._carry_out(self.player.begin())

    async def move(self, move: Move) -> None:
        """Make a move, and carry out all that follows from it."""
        await self._carry_out(self.player.move(move))

    async def _carry_out(self, orders: Sequence[Order]) -> None:
        while orders:
            (order,) = orders
            orders = self.player.told(await self._told(order))

    async def _told(self, order: Order) -> Told:
        try:
            match order:
                case OpenStage():
                    return await self._open(order)
                case DoAct(act=act, ticket=ticket):
                    assert self._held is not None
                    return ActDone(await self._held.stage.do(act), ticket)
        except UsageError as error:
            return NotDone(f"that cannot be tried: {error.cause}", order.ticket)
        except PyvmmError as error:
            if not self._has_played:
                raise
            return StageLost(str(error), order.ticket)

    async def _open(self, order: OpenStage) -> StageOpened:
        if self._held is not None:
            await self._held.let_go()
            self._held = None
        opened = open_stage(order.setup, order.needs, self._wish)
        self._held = await HeldStage.hold(self._nursery, opened)
        stage = self._held.stage
        for one in order.replay:
            await stage.do(one.act)
        self._has_played = True
        return StageOpened(stage.staged, await stage.observe(), order.ticket)


@asynccontextmanager
async def playing(player: Player, wish: StageHost | None) -> AsyncIterator[Playing]:
    """A reader with a stage; behind the block nothing of any stage is left.

    `wish` is the host for every chapter; None: each has the best there is.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield Playing(player, wish, nursery)
        except BaseException as raised:  # noqa: BLE001 - raised again, without a group
            failure = raised
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
