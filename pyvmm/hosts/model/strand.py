# SPDX-License-Identifier: MIT
"""A second thread for each vCPU, on which its guest code runs.

An access to a port or a device happens in the middle of an instruction, and the monitor answers it
between two calls of `Vcpu.run`. So guest code has a stack of its own, which waits meanwhile. The
two threads never run at the same time: one hands over to the other and waits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Strand(Generic[T]):
    """Runs `body` again and again, once for each `resume` that finds it at its end."""

    def __init__(self, body: Callable[[], T], name: str) -> None:
        self._body = body
        self._name = name
        self._go = threading.Semaphore(0)
        self._come = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._ending = False
        self._result: T | None = None
        self._failure: BaseException | None = None

    def resume(self) -> T:
        """Let it run until it hands over or ends. Raises what `body` raised, and `RuntimeError`
        where the system has no thread to give."""
        if self._thread is None:
            thread = threading.Thread(target=self._main, name=self._name, daemon=True)
            thread.start()
            self._thread = thread
        self._go.release()
        self._come.acquire()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        result: T | None = self._result
        return result  # type: ignore[return-value]

    def hand_over(self, result: T) -> None:
        """On the strand, anywhere inside of `body`: give a result, and wait to be resumed."""
        self._result = result
        self._come.release()
        self._go.acquire()

    def _main(self) -> None:
        while True:
            self._go.acquire()
            if self._ending:
                return
            try:
                self._result = self._body()
            except BaseException as failure:  # noqa: BLE001 - raised again on the other side
                self._failure = failure
            self._come.release()

    def close(self) -> None:
        """End the thread, which is not inside of `body`; a second call does nothing."""
        self._ending = True
        thread, self._thread = self._thread, None
        if thread is not None:
            self._go.release()
            thread.join()
