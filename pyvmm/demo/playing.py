# SPDX-License-Identifier: MIT
"""A player and its stage: orders are carried out, and what comes of them is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from pyvmm.demo.house.client import StageGoneError
from pyvmm.demo.house.early import EarlyProcess
from pyvmm.demo.house.houses import Houses, Reading, Say, open_houses, unheard
from pyvmm.demo.house.local import local_process
from pyvmm.demo.telling.orders import OpenStage, Order, StageLost, Told
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.telling.player import Move, Player
from pyvmm.errors import PyvmmError


class Playing:
    """One reader with stages of their own. Used by one task; made by `playing` and its like."""

    def __init__(self, player: Player, reading: Reading) -> None:
        self.player = player
        self._reading = reading
        self._has_played = False

    async def begin(self) -> None:
        """Open the first stage.

        Raises `HostLacksError` and `NoPermissionError` for a wish that cannot be met, and what
        starting a lab raises.
        """
        await self._carry_out(self.player.begin())

    async def move(self, move: Move) -> None:
        """Make a move, and carry all out that follows from it."""
        await self._carry_out(self.player.move(move))

    async def _carry_out(self, orders: Sequence[Order]) -> None:
        while orders:
            (order,) = orders
            orders = self.player.told(await self._told(order))

    async def _told(self, order: Order) -> Told:
        try:
            told = await self._reading.carry_out(order)
        except StageGoneError as error:
            return StageLost(error.cause, order.ticket)
        except PyvmmError as error:
            if not self._has_played:
                raise
            return StageLost(str(error), order.ticket)
        self._has_played |= isinstance(order, OpenStage)
        return told


@asynccontextmanager
async def playing(
    player: Player,
    wish: StageHost | None,
    say: Say = unheard,
    early: EarlyProcess | None = None,
) -> AsyncIterator[Playing]:
    """A reader with a process of stages; behind the block nothing of any stage is left.

    `wish` is the host for every chapter; None: each has the best there is. `say` is told how the
    start of a lab goes; `early` is the first process on this machine.
    """
    process = partial(local_process, early=early)
    async with (
        open_houses(wish, say, process=process) as houses,
        playing_in(houses, player) as reader,
    ):
        yield reader


@asynccontextmanager
async def playing_in(houses: Houses, player: Player) -> AsyncIterator[Playing]:
    """One of the readers of `houses`. Raises `HouseFullError` and `SystemCallError`."""
    async with houses.reading() as reading:
        yield Playing(player, reading)


@asynccontextmanager
async def playing_here(player: Player, host: StageHost) -> AsyncIterator[Playing]:
    """A reader whose stages are in this process, all on KVM or all on the model."""
    from pyvmm.demo.house.here import ReadingHere  # Its stages, which need no loading elsewhere.

    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield Playing(player, ReadingHere(nursery, host))
        except BaseException as raised:  # noqa: BLE001 - raised again, without a group
            failure = raised
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
