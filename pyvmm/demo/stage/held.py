# SPDX-License-Identifier: MIT
"""A stage that a task of its own holds open: it may have a nursery, and outlive who opened it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import trio

from pyvmm.demo.stage.stage import Stage
from pyvmm.errors import PyvmmError


class HeldStage:
    """A stage, until `let_go`. Made by `hold`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._wanted = trio.Event()
        self._gone = trio.Event()

    @classmethod
    async def hold(
        cls, nursery: trio.Nursery, opened: AbstractAsyncContextManager[Stage]
    ) -> HeldStage:
        """Open a stage in a task of `nursery`'s. Raises what that raises, a `PyvmmError`."""
        held = await nursery.start(cls._keep, opened)
        if isinstance(held, PyvmmError):
            raise held
        assert isinstance(held, HeldStage)
        return held

    async def let_go(self) -> None:
        """Free everything on it, and wait until that is done. A second call does nothing."""
        self._wanted.set()
        await self._gone.wait()

    @classmethod
    async def _keep(
        cls,
        opened: AbstractAsyncContextManager[Stage],
        task_status: trio.TaskStatus[HeldStage | PyvmmError] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        held: HeldStage | None = None
        try:
            async with opened as stage:
                held = cls(stage)
                task_status.started(held)
                await held._wanted.wait()
        except PyvmmError as error:
            # Not raised here: it is the opener's, and the others in the nursery go on.
            if held is None:
                task_status.started(error)
        finally:
            if held is not None:
                held._gone.set()
