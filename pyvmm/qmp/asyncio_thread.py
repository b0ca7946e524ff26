# SPDX-License-Identifier: MIT
"""An asyncio event loop for one asyncio library, beside trio and out of everybody's way.

It runs on a thread of its own, so that nothing that belongs to the process or to another thread
changes: no loop policy, no current loop, no signal handler, no wakeup descriptor (which asyncio
sets on the main thread only). Whatever else uses asyncio in this process does not notice.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import trio

from pyvmm.errors import SystemCallError

T = TypeVar("T")

_CANCEL_PATIENCE = 2.0


class AsyncioThread:
    """A running loop. Made by `open_asyncio`."""

    def __init__(self) -> None:
        try:
            self._loop = asyncio.new_event_loop()
        except OSError as error:
            raise SystemCallError(
                "make a loop for QMP", error.errno or 0, error.strerror or str(error)
            ) from error
        self._thread = threading.Thread(target=self._main, name="asyncio", daemon=True)

    def start(self) -> None:
        """Start the thread; whoever does calls `close`. Raises `RuntimeError` for lack of one."""
        try:
            self._thread.start()
        except BaseException:
            self._loop.close()
            raise

    async def run(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: object) -> T:
        """Await ``function(*arguments)`` in the loop, from trio; what it returns or raises.

        Cancelled, it cancels the call there and gives that `_CANCEL_PATIENCE` seconds to clean up.
        Raises `EOFError` where the loop or the library ended it instead.
        """
        token = trio.lowlevel.current_trio_token()
        is_done = trio.Event()
        call: list[asyncio.Task[T]] = []

        def start() -> None:
            call.append(self._loop.create_task(function(*arguments)))
            call[0].add_done_callback(tell)

        def tell(task: asyncio.Task[T]) -> None:
            if not task.cancelled():
                task.exception()  # Asked for, it is not complained of where nobody waits any more.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(is_done.set)

        def cancel() -> None:
            call[0].cancel()

        self._loop.call_soon_threadsafe(start)
        try:
            await is_done.wait()
        except trio.Cancelled:
            self._loop.call_soon_threadsafe(cancel)
            with trio.CancelScope(deadline=trio.current_time() + _CANCEL_PATIENCE, shield=True):
                await is_done.wait()
            raise
        try:
            return call[0].result()
        except asyncio.CancelledError:
            raise EOFError("it was given up") from None

    async def close(self) -> None:
        """Cancel what still runs there, end the loop and join its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        await trio.to_thread.run_sync(self._thread.join)

    def _main(self) -> None:
        loop = self._loop
        try:
            loop.run_forever()
            loop.run_until_complete(_end_tasks())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


async def _end_tasks() -> None:
    """Cancel the other tasks of this loop, and wait until they have ended."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


@asynccontextmanager
async def open_asyncio() -> AsyncIterator[AsyncioThread]:
    """A loop for the block; nothing is left of it afterwards, however the block is left."""
    opened = AsyncioThread()
    opened.start()
    try:
        yield opened
    finally:
        with trio.CancelScope(shield=True):
            await opened.close()
