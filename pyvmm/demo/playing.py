# SPDX-License-Identifier: MIT
"""A player and its stage: orders are carried out, and what comes of them is told."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from pyvmm.demo.stage.stage import Stage, open_stage
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import (
    ActDone,
    DoAct,
    Move,
    NotDone,
    OpenStage,
    Order,
    Player,
    StageLost,
    StageOpened,
    Told,
)
from pyvmm.errors import PyvmmError, UsageError
from pyvmm.hosts.owner import Owner


class Playing(Owner):
    """One reader with a stage of their own, in this process. Used by one task.

    A context manager: behind the block nothing of any stage is left.
    """

    def __init__(self, player: Player, wish: StageHost | None) -> None:
        """`wish` is the host for every chapter; None: each has the best there is."""
        self.player = player
        self._wish = wish
        self._stack = ExitStack()
        self._stage: Stage | None = None
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
                    assert self._stage is not None
                    return ActDone(await self._stage.do(act), ticket)
        except UsageError as error:
            return NotDone(f"that cannot be tried: {error.cause}", order.ticket)
        except PyvmmError as error:
            if not self._has_played:
                raise
            return StageLost(str(error), order.ticket)

    async def _open(self, order: OpenStage) -> StageOpened:
        self.close()
        opened = open_stage(order.setup, order.needs, self._wish)
        self._stage = stage = self._stack.enter_context(opened)
        for act in order.replay:
            await stage.do(act)
        self._has_played = True
        return StageOpened(stage.staged, await stage.observe(), order.ticket)

    def close(self) -> None:
        """Free the stage; a second call does nothing."""
        self._stage = None
        self._stack.close()
