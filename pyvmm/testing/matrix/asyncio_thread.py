# SPDX-License-Identifier: MIT
"""Something of asyncio's, which Dask's client is, waited for and cancelled from trio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

_TO_END = 15.0
"""Seconds that it gets to end once it is cancelled; then it is left alone in its thread."""


async def in_asyncio(function: Callable[[], Awaitable[None]]) -> None:
    """Run `function` in an asyncio loop on a thread of its own, which ends with it.

    A cancellation here cancels it there, and waits for it. What it raises is raised.
    """
    there = _There(function, trio.lowlevel.current_trio_token())
    thread = threading.Thread(target=there.run, name="pyvmm asyncio", daemon=True)
    thread.start()
    try:
        await there.over.wait()
    except trio.Cancelled:
        there.cancel()
        with trio.CancelScope(deadline=trio.current_time() + _TO_END, shield=True):
            await there.over.wait()
        raise
    thread.join()
    if there.failure is not None:
        raise there.failure


class _There:
    """The loop and its task, from both sides."""

    def __init__(
        self, function: Callable[[], Awaitable[None]], token: trio.lowlevel.TrioToken
    ) -> None:
        self.over = trio.Event()
        self.failure: BaseException | None = None
        self._function = function
        self._token = token
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[object] | None = None
        self._is_cancelled = False

    def run(self) -> None:
        """Be the thread."""
        try:
            asyncio.run(self._main())
        except BaseException as failure:  # noqa: BLE001 - raised by who waits
            self.failure = failure
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self.over.set)

    async def _main(self) -> None:
        with self._lock:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.current_task()
            if self._is_cancelled:
                return
        await self._function()

    def cancel(self) -> None:
        """Cancel the task, from the other thread."""
        with self._lock:
            self._is_cancelled = True
            if self._loop is None or self._task is None:
                return
            with suppress(RuntimeError):  # The loop is closed: it is over.
                self._loop.call_soon_threadsafe(self._task.cancel)
