# SPDX-License-Identifier: MIT
"""Turns of the vCPUs of a VM and of those who change its memory: one at a time, in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class TakesTurns(Protocol):
    """A VM whose vCPUs and changes of memory take turns."""

    def turn(self) -> AbstractContextManager[None]:
        """Hold it."""
        ...


class Turn:
    """A lock that is handed over in the order in which it was asked for.

    A thread that takes it again at once goes behind those that wait: so a vCPU that gives it up
    after each slice of time starves nobody. A thread that has it may take it once more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._holder = 0
        self._depth = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold it."""
        self._take()
        try:
            yield
        finally:
            self._give()

    @property
    def is_wanted(self) -> bool:
        """True while somebody waits for it."""
        return bool(self._waiting)

    def _take(self) -> None:
        own = threading.get_ident()
        with self._lock:
            if self._holder == own:
                self._depth += 1
                return
            if not self._holder:
                self._holder, self._depth = own, 1
                return
            ticket = threading.Lock()
            ticket.acquire()
            self._waiting.append(ticket)
        # Whoever gives it up lets go of the ticket, and leaves the turn taken.
        try:
            ticket.acquire()
        except BaseException:  # Of a signal's handler, such as KeyboardInterrupt.
            self._stop_waiting(ticket)
            raise
        with self._lock:
            self._holder, self._depth = own, 1

    def _stop_waiting(self, ticket: threading.Lock) -> None:
        """Leave the queue; a turn that has been handed over meanwhile goes to the next."""
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            else:
                self._hand_over()

    def _give(self) -> None:
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._hand_over()

    def _hand_over(self) -> None:
        """To the first that waits, if any; under the lock."""
        if self._waiting:
            self._holder = -1
            self._waiting.popleft().release()
        else:
            self._holder = 0
