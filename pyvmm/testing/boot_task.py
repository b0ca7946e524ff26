# SPDX-License-Identifier: MIT
"""Calls to a booted guest in the loop that holds it, as a synchronous test makes them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from pyvmm.machine.loop_thread import LoopTask
from pyvmm.testing.failures import is_told, says_all
from pyvmm.testing.vm import AsyncVm, require_open

__tracebackhide__ = is_told

T = TypeVar("T")


class BootTask:
    """Task in a session's loop that holds one guest."""

    def __init__(self, task: LoopTask[AsyncVm]) -> None:
        self._task = task

    def call(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await `function()` in the loop. Raises what that raises."""
        require_open(self._task.value)
        try:
            return self._task.call(function)
        except BaseException as failure:
            # A test is told where it failed, not by which way the loop was asked.
            if not says_all(failure):
                raise
            raise failure.with_traceback(None) from failure.__cause__

    def now(self, function: Callable[[], T]) -> T:
        """Call what does not wait, in the loop. Raises what that raises."""
        require_open(self._task.value)
        return self._task.now(function)
