# SPDX-License-Identifier: MIT
"""A thing that a task of its own holds open: it may have a nursery, and outlive who opened it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

import trio

from pyvmm.errors import PyvmmError

T = TypeVar("T")


class Held(Generic[T]):
    """A stage, or what else an asynchronous context manager gives, until `let_go`."""

    def __init__(self, thing: T) -> None:
        self.thing = thing
        self._wanted = trio.Event()
        self._gone = trio.Event()

    @classmethod
    async def hold(cls, nursery: trio.Nursery, opened: AbstractAsyncContextManager[T]) -> Held[T]:
        """Open it in a task of `nursery`'s. Raises what that raises, a `PyvmmError`."""
        held: Held[T] | PyvmmError = await nursery.start(cls._keep, opened)
        if isinstance(held, PyvmmError):
            raise held
        return held

    async def let_go(self) -> None:
        """Free everything of it, and wait until that is done. A second call does nothing."""
        self._wanted.set()
        await self._gone.wait()

    @classmethod
    async def _keep(
        cls,
        opened: AbstractAsyncContextManager[T],
        task_status: trio.TaskStatus[Held[T] | PyvmmError] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        held: Held[T] | None = None
        try:
            async with opened as thing:
                held = cls(thing)
                task_status.started(held)
                await held._wanted.wait()
        except PyvmmError as error:
            # Not raised here: it is the opener's, and the others in the nursery go on.
            if held is None:
                task_status.started(error)
        finally:
            if held is not None:
                held._gone.set()
