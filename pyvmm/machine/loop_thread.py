# SPDX-License-Identifier: MIT
"""A trio loop on a thread of its own that holds asynchronous things open, for code that blocks.

::

    with LoopThread() as loop, loop.holding(open_machine(config)) as task:
        task.call(task.value.control.wait)

Nothing of the calling thread or the process is touched: no signal handler, no wakeup descriptor, no
event loop. So there may be any number of them, inside of any loop (which they block).
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import Generic, Self, TypeVar

import trio

from pyvmm.errors import InternalError, SystemCallError
from pyvmm.hosts.owner import Owner

T = TypeVar("T")
U = TypeVar("U")

_ATTEMPT = "steer a machine"


def _never() -> bool:
    return False


def _closed() -> InternalError:
    return InternalError(_ATTEMPT, "it has been closed")


def _told(failure: BaseException) -> BaseException:
    """`failure` of a task as other threads are told it: being cancelled is trio's own affair."""
    cancelled = trio.current_effective_deadline() == float("-inf")
    return _closed() if cancelled and not isinstance(failure, Exception) else failure


class LoopThread(Owner):
    """The thread and its loop, which holds any number of things open at once (`holding`).

    A context manager: the thread starts on entry and has ended behind the block. What is still held
    open then is cancelled. Each thing has a task of its own, so the failure of one is told to who
    holds that one, and the others go on.
    """

    def __init__(self, name: str = "machine") -> None:
        """`name` is the thread's."""
        self._ready: Future[None] = Future()
        self._closing = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def __enter__(self) -> Self:
        """Start the thread. Raises `SystemCallError` where the system has none to give."""
        try:
            self._thread.start()
        except RuntimeError as error:
            raise SystemCallError(
                "start a thread for the machine's loop",
                0,
                str(error),
                "raise the limits on threads and address space (ulimit -u, ulimit -v)",
            ) from error
        try:
            self._ready.result()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Cancel what is held open, and wait for the thread. From any thread but its own."""
        if self._thread.ident is None:
            return
        # Starting is short, and until it is done there is nothing that could be told to end.
        if self._ready.exception() is None:
            self.soon(self._closing.set)
        self._thread.join()

    @contextmanager
    def holding(
        self,
        manager: AbstractAsyncContextManager[U],
        is_waited_for: Callable[[], bool] = _never,
    ) -> Iterator[LoopTask[U]]:
        """Inside of the block `manager` is entered, in a task of the loop's own.

        Raises what entering and leaving it raise, and `InternalError` where the loop is closed, or
        closes meanwhile. `is_waited_for`: what is held may wait for the calling thread, which must
        not for it.
        """
        task = LoopTask(self, manager, is_waited_for)
        try:
            task.open()
            yield task
        finally:
            task.close()
        task.raise_failure()

    # -- for what it holds --

    @property
    def is_current(self) -> bool:
        """True on the loop's own thread."""
        return threading.current_thread() is self._thread

    def soon(self, function: Callable[[], object]) -> bool:
        """Have `function` called in the loop; False where there is none. Any thread."""
        if self._token is None:
            return False
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            return False
        return True

    def start(
        self, task: Callable[[], Awaitable[None]], refused: Callable[[InternalError], None]
    ) -> None:
        """Start `task` in the loop; where that is closed, `refused` is called. Any thread."""

        def start() -> None:
            if self._nursery is None:
                refused(_closed())
            else:
                self._nursery.start_soon(task)

        if not self.soon(start):
            refused(_closed())

    def _main(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as failure:
            if self._ready.done():
                raise
            self._ready.set_exception(failure)

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._ready.set_result(None)
            await self._closing.wait()
            self._nursery = None
            nursery.cancel_scope.cancel()


class LoopTask(Generic[U]):
    """Task in a loop that holds one thing open, and takes calls to it. Made by `holding`."""

    def __init__(
        self,
        loop: LoopThread,
        manager: AbstractAsyncContextManager[U],
        is_waited_for: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._manager = manager
        self._is_waited_for = is_waited_for
        self._ready: Future[U] = Future()
        self._ended: Future[BaseException | None] = Future()
        self._closing = trio.Event()
        self._nursery: trio.Nursery | None = None

    # -- its life --

    @property
    def value(self) -> U:
        """The thing that is held open."""
        return self._ready.result()

    def open(self) -> None:
        """Enter the manager. Raises what that raises."""
        self._loop.start(self._main, self._break)
        self._ready.result()

    def close(self) -> None:
        """Leave the manager, and wait until that is done. From any thread but the loop's."""
        self._loop.soon(self._closing.set)
        self._ended.result()

    def raise_failure(self) -> None:
        """Raise what leaving it has raised."""
        failure = self._ended.result()
        if failure is not None:
            raise failure

    def _break(self, failure: BaseException) -> None:
        """Tell who opens it, or closes it, that it is not open."""
        if self._ready.done():
            self._ended.set_result(failure)
        else:
            self._ready.set_exception(failure)
            self._ended.set_result(None)

    async def _main(self) -> None:
        try:
            await self._hold()
        except BaseException as failure:  # noqa: BLE001 - handed to the holder's thread
            self._break(_told(failure))
        else:
            self._ended.set_result(None)

    async def _hold(self) -> None:
        async with self._manager as value, trio.open_nursery() as nursery:
            self._nursery = nursery
            self._ready.set_result(value)
            try:
                await self._closing.wait()
            finally:
                self._nursery = None
                nursery.cancel_scope.cancel()

    # -- calls into it --

    def call(self, function: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        """Await `function()` in the loop, and return what it returns.

        Raises what that raises, `TimeoutError` after `timeout` seconds, and `InternalError` where
        the thing has been closed or is closed meanwhile. Who is interrupted (Ctrl-C) while it
        waits leaves nothing behind that still waits. Raises `InternalError` on a thread that the
        thing may wait for, too.
        """
        self._refuse_waited_for()
        return self._call(function, timeout)

    def _call(self, function: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        done: Future[T] = Future()
        scope = trio.CancelScope()

        async def carry_out() -> None:
            # Not fail_after: a TooSlowError of the function's own is told as that.
            with trio.move_on_after(float("inf") if timeout is None else timeout) as limit:
                done.set_result(await function())
            if limit.cancelled_caught:
                done.set_exception(TimeoutError(f"not within {timeout:g} s"))

        # An interrupt may come as soon as it is started: no manager's `__enter__` between.
        try:
            self._run(scope, carry_out, done)
            return done.result()
        finally:
            if not done.done():
                self._loop.soon(scope.cancel)

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
        scope = trio.CancelScope()

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

        try:
            self._run(scope, hold, entered, left)
            value = entered.result()
            try:
                yield value
            finally:
                self._loop.soon(leave.set)
                left.result()
        finally:
            if not left.done():
                self._loop.soon(scope.cancel)

    def _refuse_waited_for(self) -> None:
        if self._is_waited_for():
            raise InternalError(
                _ATTEMPT,
                "a vCPU's thread must not wait for its own machine",
                "do it on another thread",
            )

    def _run(
        self,
        scope: trio.CancelScope,
        task: Callable[[], Awaitable[None]],
        *promised: Future[T] | Future[None],
    ) -> None:
        """Start `task` inside of `scope`; where it fails, the first open promise is broken."""
        if self._loop.is_current:
            raise InternalError(
                _ATTEMPT, "its own thread must not wait for itself", "do it outside of a listener"
            )

        def break_promise(failure: BaseException) -> None:
            next(one for one in promised if not one.done()).set_exception(failure)

        async def guarded() -> None:
            try:
                with scope:
                    await task()
            except BaseException as failure:  # noqa: BLE001 - handed to who waits
                break_promise(_told(failure))

        def start() -> None:
            if self._nursery is None:
                break_promise(_closed())
            else:
                self._nursery.start_soon(guarded)

        if not self._loop.soon(start):
            raise _closed()
