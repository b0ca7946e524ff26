# SPDX-License-Identifier: MIT
"""A second thread for each vCPU, on which its guest code runs.

An access to a port or a device happens in the middle of an instruction, and the monitor answers it
between two calls of `Vcpu.run`. So guest code has a stack of its own, which waits meanwhile. The
two threads never run at the same time: one hands over to the other and waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")


class Strand(Generic[T]):
    """Runs `body` again and again, once for each `resume` that finds it at its end.

    An exception of a signal's handler (KeyboardInterrupt) that breaks off the wait in `resume`
    leaves `body` running: `is_out`, until one more `resume`, which does nothing but wait for it.
    """

    def __init__(self, body: Callable[[], T], name: str) -> None:
        self._body = body
        self._name = name
        # A handler's exception may come just after a wait has ended, too. So a token only says that
        # there is something to look at, and one that was not taken does no harm.
        self._go: SimpleQueue[None] = SimpleQueue()
        self._come: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._is_back = True
        self.is_out = False
        """True while `body` has been resumed, and what it gave has not been taken."""
        self._result: T | None = None
        self._failure: BaseException | None = None

    def resume(self) -> T:
        """Let it run until it hands over or ends. Raises what `body` raised, and `RuntimeError`
        where the system has no thread to give."""
        if self._thread is None:
            go: SimpleQueue[None] = SimpleQueue()
            thread = threading.Thread(target=self._main, args=(go,), name=self._name, daemon=True)
            thread.start()
            self._go, self._thread = go, thread
        if not self.is_out:
            self._is_back = False
            self.is_out = True
            self._go.put(None)
        while not self._is_back:
            self._come.get()
        self.is_out = False
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        result: T | None = self._result
        return result  # type: ignore[return-value]

    def hand_over(self, result: T) -> None:
        """On the strand, anywhere inside of `body`: give a result, and wait to be resumed."""
        self._result = result
        self._come_back()
        self._go.get()

    def _come_back(self) -> None:
        self._is_back = True
        self._come.put(None)

    def _main(self, go: SimpleQueue[None]) -> None:
        while True:
            go.get()
            if self._ending:
                return
            try:
                self._result = self._body()
            except BaseException as failure:  # noqa: BLE001 - raised again on the other side
                self._failure = failure
            self._come_back()

    def close(self) -> None:
        """End the thread, which is not inside of `body`; a second call does nothing."""
        self._ending = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._go.put(None)
            thread.join()
