# SPDX-License-Identifier: MIT
"""A trio loop on a thread of its own that owns one asynchronous thing, for code that blocks.

Nothing of the calling thread or the process is touched: no signal handler, no wakeup descriptor, no
event loop. So there may be any number of them, inside of any loop (which they block).
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    contextmanager,
    suppress,
)
from typing import Generic, TypeVar

import trio

from pyvmm.errors import InternalError, SystemCallError

T = TypeVar("T")
U = TypeVar("U")

_ATTEMPT = "steer a machine"


class LoopThread(Generic[U]):
    """The thread, its loop, and what it holds open there from `open` to `close`."""

    def __init__(
        self,
        held: AbstractAsyncContextManager[U],
        is_waited_for: Callable[[], bool] = lambda: False,
    ) -> None:
        """`is_waited_for`: what is held may wait for the calling thread, which must not for it."""
        self._held = held
        self._is_waited_for = is_waited_for
        self._ready: Future[U] = Future()
        self._failure: BaseException | None = None
        self._closing = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._thread = threading.Thread(target=self._main, name="machine", daemon=True)

    # -- its life --

    def open(self) -> U:
        """Start the thread and return what is held. Raises what opening that raises.

        Raises `SystemCallError` where the system has no thread to give.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            self._ready.set_exception(
                SystemCallError(
                    "start a thread for the machine's loop",
                    0,
                    str(error),
                    "raise the limits on threads and address space (ulimit -u, ulimit -v)",
                )
            )
        return self._ready.result()

    def close(self) -> None:
        """Close what is held, and wait for the thread. From any thread but its own."""
        # Opening is short, and until it is done there is nothing that could be told to end.
        if self._ready.exception() is None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._closing.set)
        if self._thread.ident is not None:  # Else the system had none to give.
            self._thread.join()

    def raise_failure(self) -> None:
        """Raise what closing it has raised."""
        if self._failure is not None:
            raise self._failure

    def _main(self) -> None:
        try:
            trio.run(self._hold)
        except BaseException as failure:  # noqa: BLE001 - handed to the owner's thread
            if self._ready.done():
                self._failure = failure
            else:
                self._ready.set_exception(failure)

    async def _hold(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with self._held as held, trio.open_nursery() as nursery:
            self._nursery = nursery
            self._ready.set_result(held)
            await self._closing.wait()
            self._nursery = None
            nursery.cancel_scope.cancel()

    # -- calls into it --

    def call(self, function: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        """Await `function()` in the loop, and return what it returns.

        Raises what that raises, `TimeoutError` after `timeout` seconds, and `InternalError` where
        the machine has been closed or is closed meanwhile. Who is interrupted (Ctrl-C) while it
        waits leaves nothing behind that still waits. Raises `InternalError` on a thread that the
        machine may wait for, too.
        """
        self._refuse_waited_for()
        return self._call(function, timeout)

    def _call(self, function: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        done: Future[T] = Future()

        async def carry_out() -> None:
            try:
                with trio.fail_after(float("inf") if timeout is None else timeout):
                    done.set_result(await function())
            except trio.TooSlowError:
                done.set_exception(TimeoutError(f"not within {timeout:g} s"))

        with self._cancelled_at_the_end(carry_out, done):
            return done.result()

    def now(self, function: Callable[[], T]) -> T:
        """Call what does not wait, in the loop, from any thread but its own. Raises as `call`."""

        async def act() -> T:
            return function()

        return self._call(act)

    @contextmanager
    def entered(
        self, manager: AbstractAsyncContextManager[T] | AbstractContextManager[T]
    ) -> Iterator[T]:
        """Inside of the block `manager` is entered, in a task of the loop's. Raises as `call`."""
        if isinstance(manager, AbstractAsyncContextManager):
            self._refuse_waited_for()
        entered: Future[T] = Future()
        left: Future[None] = Future()
        leave = trio.Event()

        async def hold() -> None:
            if isinstance(manager, AbstractAsyncContextManager):
                async with manager as value:
                    entered.set_result(value)
                    await leave.wait()
            else:
                with manager as value:
                    entered.set_result(value)
                    await leave.wait()
            left.set_result(None)

        with self._cancelled_at_the_end(hold, entered, left):
            value = entered.result()
            try:
                yield value
            finally:
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(leave.set)
                left.result()

    def _refuse_waited_for(self) -> None:
        if self._is_waited_for():
            raise InternalError(
                _ATTEMPT,
                "a vCPU's thread must not wait for its own machine",
                "do it on another thread",
            )

    @contextmanager
    def _cancelled_at_the_end(
        self, task: Callable[[], Awaitable[None]], *promised: Future[T] | Future[None]
    ) -> Iterator[None]:
        """Inside of the block `task` runs; where it fails, the first open promise is broken."""
        if threading.current_thread() is self._thread:
            raise InternalError(
                _ATTEMPT, "its own thread must not wait for itself", "do it outside of a listener"
            )
        scope = trio.CancelScope()

        def break_promise(failure: BaseException) -> None:
            next(one for one in promised if not one.done()).set_exception(failure)

        async def guarded() -> None:
            try:
                with scope:
                    await task()
            except trio.Cancelled:
                break_promise(InternalError(_ATTEMPT, "it has been closed"))
                raise
            except BaseException as failure:  # noqa: BLE001 - handed to who waits
                break_promise(failure)

        def start() -> None:
            if self._nursery is None:
                break_promise(InternalError(_ATTEMPT, "it has been closed"))
            else:
                self._nursery.start_soon(guarded)

        try:
            self._token.run_sync_soon(start)
        except trio.RunFinishedError as error:
            raise InternalError(_ATTEMPT, "it has been closed") from error
        with ExitStack() as stack:
            stack.callback(self._cancel, scope)
            yield

    def _cancel(self, scope: trio.CancelScope) -> None:
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(scope.cancel)
