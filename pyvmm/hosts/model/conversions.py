# SPDX-License-Identifier: MIT
"""The lock of a model VM's conversions; its vCPUs have no fast path, every request is an exit."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from pyvmm.errors import InternalError
from pyvmm.hosts.interface import Converted, ServedSpan
from pyvmm.hosts.model.held_ranges import ModelHeldRanges
from pyvmm.hosts.owner import Owner


class ModelConversions(Owner):
    """`interface.FastConversions` without the speed: serves nothing, so nothing is ever drained.

    The lock is handed over as conversions_lock.c does it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turned = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)
        self._holder = 0
        self._counting = threading.Lock()
        self._waiting = 0
        self._awaiting = 0
        self._turns = 0
        self._ends = 0
        self.held = ModelHeldRanges(self._unless_inside, self._note_end)
        """Ranges that somebody holds."""

    def serve(self, spans: Sequence[ServedSpan]) -> None:
        """Nothing is served; every hypercall ends `run`."""
        del spans

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other conversion out. Raises `InternalError` when the thread is inside."""
        own = threading.get_ident()
        if self._holder == own:
            raise InternalError(
                "keep other conversions of guest memory out", "this thread does so already"
            )
        self._acquire()
        try:
            self._holder = own
            yield
        finally:
            self._holder = 0
            self._lock.release()

    def give_way(self, seconds: float = 0.0) -> bool:
        """Inside of `exclusive`: let everybody in who waits for it, or all for `seconds`."""
        if seconds:
            with self._outside():
                self._lock.release()
                try:
                    time.sleep(seconds)
                finally:
                    self._acquire()
            return True
        others = self._waiting
        if not others:
            return False
        until = self._turns + others
        self._count(1)
        with self._outside():
            try:
                self._turned.wait_for(lambda: self._turns >= until)
            finally:
                self._have_turn()
        return True

    def await_end(self) -> None:
        """Inside of `exclusive`: let others in until work in steps on some range has ended."""
        seen = self._ends
        self._awaiting += 1
        with self._outside():
            try:
                self._ended.wait_for(lambda: self._ends != seen)
            except BaseException:  # Of a signal's handler, such as KeyboardInterrupt.
                if self._ends == seen:
                    self._awaiting -= 1
                else:
                    self._have_turn()
                raise
            self._have_turn()

    @property
    def waiting(self) -> int:
        """Number of threads that wait for `exclusive`, or in `await_end`; as of a moment."""
        return self._waiting + self._awaiting

    def _acquire(self) -> None:
        if not self._lock.acquire(blocking=False):
            self._count(1)
            try:
                self._lock.acquire()
            except BaseException:  # Of a signal's handler: nobody is to wait for this turn.
                self._count(-1)
                raise
            self._have_turn()

    @contextmanager
    def _outside(self) -> Iterator[None]:
        """Whoever waits inside of this block is not the holder."""
        own, self._holder = self._holder, 0
        try:
            yield
        finally:
            self._holder = own

    def _count(self, more: int) -> None:
        with self._counting:  # Nothing else is taken inside.
            self._waiting += more

    def _have_turn(self) -> None:
        """The calling thread, which is counted as waiting, has the lock now."""
        self._count(-1)
        self._turns += 1
        self._turned.notify_all()

    def _note_end(self) -> None:
        self._ends += 1
        self._count(self._awaiting)
        self._awaiting = 0
        self._ended.notify_all()

    def _unless_inside(self) -> AbstractContextManager[None]:
        return nullcontext() if self._holder == threading.get_ident() else self.exclusive()

    def drain(self) -> list[Converted]:
        """Return the conversions that vCPUs made by themselves: none."""
        return []

    def close(self) -> None:
        """Give no lease any more; nothing to give back."""
        self.held.close()
