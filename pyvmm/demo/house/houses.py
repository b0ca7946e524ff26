# SPDX-License-Identifier: MIT
"""Houses: where a reader's stages are opened, and why not where one would expect.

Without a wish a stage is on this machine's KVM; in a lab, if one is up and this machine's KVM
cannot give what is needed; and else on the model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Protocol, TypeGuard

import trio

from pyvmm.demo.house.client import PATIENCE, Patience, StageClient, StageGoneError
from pyvmm.demo.house.lab import MOST_IN_LAB, LabHouse
from pyvmm.demo.house.lines import Answer, Asked, NoStage, OpenOn
from pyvmm.demo.house.local import local_process
from pyvmm.demo.stage.held import Held
from pyvmm.demo.telling.orders import NotDone, OpenStage, Order, StageOpened, Told
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.errors import ExitCode, HostLacksError

MOST_READERS = 32
"""Readers at once: each has a process of their own."""
_NOT_THERE = {int(ExitCode.HOST_LACKS), int(ExitCode.NO_PERMISSION)}
"""Exit codes of errors after which the next host is tried."""
Say = Callable[[str], object]
Process = Callable[[Patience], AbstractAsyncContextManager[StageClient]]


def unheard(_: str) -> None:
    """Hear nothing of how the start of a lab goes."""


class HouseFullError(HostLacksError):
    """There are as many readers as there may be."""

    def __init__(self, most: int) -> None:
        super().__init__(
            "take one more reader", f"there are {most} of them, the most at once", "try again later"
        )


class Reading(Protocol):
    """Stages of one reader: carries that reader's orders out. Used by one task."""

    async def carry_out(self, order: Order) -> Told:
        """Carry an order out. Raises what opening a stage raises, and `StageGoneError`."""
        ...


class Houses:
    """Processes of stages for many readers; made by `open_houses`."""

    def __init__(
        self,
        nursery: trio.Nursery,
        wish: StageHost | None,
        say: Say,
        *,
        most: int = MOST_READERS,
        patience: Patience = PATIENCE,
        process: Process = local_process,
    ) -> None:
        self.readers = 0
        self.lab = LabHouse(say)
        self._nursery = nursery
        self._wish = wish
        self._most = most
        self._patience = patience
        self._process = process

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reading]:
        """One reader; behind the block nothing of any stage is left.

        Raises `HouseFullError`, and `SystemCallError` where there can be no more process.
        """
        if self.readers >= self._most:
            raise HouseFullError(self._most)
        self.readers += 1
        reader = _Reader(self._nursery, self._wish, self.lab, self._patience, self._process)
        try:
            if self._wish is not StageHost.LAB:
                await reader.make_ready()
            yield reader
        finally:
            self.readers -= 1
            with trio.CancelScope(shield=True):
                await reader.close()


@asynccontextmanager
async def open_houses(
    wish: StageHost | None,
    say: Say = unheard,
    *,
    most: int = MOST_READERS,
    patience: Patience = PATIENCE,
    process: Process = local_process,
) -> AsyncIterator[Houses]:
    """Houses for readers; behind the block all processes have ended.

    `wish` is the host for every chapter; None: each has the best there is. `say` is told how the
    start of a lab goes.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        houses = Houses(nursery, wish, say, most=most, patience=patience, process=process)
        try:
            yield houses
        except BaseException as raised:  # noqa: BLE001 - raised again, without a group
            failure = raised
        houses.lab.close()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Reader:
    """One reader's processes: one here, and one in the lab while a stage is there."""

    def __init__(
        self,
        nursery: trio.Nursery,
        wish: StageHost | None,
        lab: LabHouse,
        patience: Patience,
        process: Process,
    ) -> None:
        self._nursery = nursery
        self._wish = wish
        self._lab_house = lab
        self._patience = patience
        self._process = process
        self._here: Held[StageClient] | None = None
        self._in_lab: Held[StageClient] | None = None
        self._is_in_lab = False
        self._has_stage = False

    async def make_ready(self) -> None:
        """See that there is a process here; what it loads is not waited for."""
        if self._here is not None and self._here.thing.lost:
            await self._leave_here()
        if self._here is None:
            self._here = await Held.hold(self._nursery, self._process(self._patience))

    async def carry_out(self, order: Order) -> Told:
        """See `Reading`."""
        if isinstance(order, OpenStage):
            return await self._open(order)
        if not self._has_stage:
            return NotDone("there is no stage", order.ticket)
        if self._is_in_lab:
            return told_of(await self._ask_lab(order))
        return told_of(await self._ask_here(order))

    async def close(self) -> None:
        """End the processes."""
        await self._leave_here()
        await self._leave_lab()

    # -- hosts --

    async def _open(self, order: OpenStage) -> Told:
        self._has_stage = False
        match self._wish:
            case None:
                told = await self._open_anywhere(order)
            case StageHost.LAB:
                told = await self._open_in_lab(order, "")
            case host:
                told = await self._open_here(order, host, "")
        self._has_stage = isinstance(told, StageOpened)
        if not self._is_in_lab:
            await self._leave_lab()
        return told

    async def _open_anywhere(self, order: OpenStage) -> Told:
        self._is_in_lab = False
        answer = await self._ask_here(OpenOn(StageHost.KVM, order))
        if not _is_lacking(answer):
            return told_of(answer)
        why = f"not on this machine's KVM: {answer.cause}"
        if self._lab_house.is_up() or self._lab_house.lost:
            return await self._open_in_lab(order, why)
        return await self._open_here(order, StageHost.MODEL, why)

    async def _open_in_lab(self, order: OpenStage, why: str) -> Told:
        """Open it in the lab, and on the model where there is none for it."""
        asked = order.setup.kind, order.setup.designs, order.needs
        lacking = self._lab_house.lacking.get(asked) or self._no_lab()
        if not lacking:
            self._is_in_lab = True
            answer = await self._ask_lab(OpenOn(StageHost.KVM, order))
            if not _is_lacking(answer):
                return _staged(answer, StageHost.LAB, why)
            lacking = self._lab_house.lacking[asked] = answer.cause
        why = f"{why}; not in the lab: {lacking}" if why else f"not in the lab: {lacking}"
        return await self._open_here(order, StageHost.MODEL, why)

    async def _open_here(self, order: OpenStage, host: StageHost, why: str) -> Told:
        self._is_in_lab = False
        return _staged(await self._ask_here(OpenOn(host, order)), host, why)

    def _no_lab(self) -> str:
        """Reason that no stage can be opened in the lab now; "" where one can."""
        house = self._lab_house
        if self._in_lab is None and house.stages >= MOST_IN_LAB:
            return f"it has {MOST_IN_LAB} stages, the most at once"
        return house.lost if house.lost and not house.is_up() else ""

    # -- processes --

    async def _ask_here(self, asked: Asked) -> Answer:
        await self.make_ready()
        assert self._here is not None
        return await self._answer(self._here, asked, self._leave_here)

    async def _ask_lab(self, asked: Asked) -> Answer:
        if self._in_lab is None:
            opened = self._lab_house.process(self._patience)
            self._in_lab = await Held.hold(self._nursery, opened)
        return await self._answer(self._in_lab, asked, self._leave_lab)

    async def _answer(
        self, held: Held[StageClient], asked: Asked, leave: Callable[[], Awaitable[None]]
    ) -> Answer:
        try:
            return await held.thing.ask(asked)
        except StageGoneError:
            self._has_stage = False
            await leave()
            raise

    async def _leave_here(self) -> None:
        held, self._here = self._here, None
        if held is not None:
            await held.let_go()

    async def _leave_lab(self) -> None:
        held, self._in_lab = self._in_lab, None
        if held is not None:
            await held.let_go()


def _is_lacking(answer: Answer) -> TypeGuard[NoStage]:
    """True if the host has not what it takes, so that another may be tried."""
    return isinstance(answer, NoStage) and answer.code in _NOT_THERE


def told_of(answer: Answer) -> Told:
    """The answer for a player. Raises the error of a stage that there is none of."""
    if isinstance(answer, NoStage):
        raise answer.error()
    return answer


def _staged(answer: Answer, host: StageHost, why: str) -> Told:
    """The answer, whose stage is told to be in the lab where it is, and why."""
    told = told_of(answer)
    if not isinstance(told, StageOpened):
        return told
    staged = told.staged
    if staged.host is StageHost.KVM:
        staged = replace(staged, host=host)
    return replace(told, staged=replace(staged, why=staged.why or why))
