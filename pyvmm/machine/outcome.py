# SPDX-License-Identifier: MIT
"""Outcome of a run: what it comes to, and everybody who waits for that."""

from __future__ import annotations

import trio

from pyvmm.errors import InternalError
from pyvmm.machine.control import RunControl
from pyvmm.machine.ending import Ending, EndingKind, RunResult

FLUSH_GRACE = 0.05
"""Seconds that a reader gets to take the last output of a guest that was stopped."""
_STOPPED = frozenset({EndingKind.INTERRUPTED, EndingKind.TIME_LIMIT, EndingKind.CLOSED})


class Outcome:
    """Outcome of one run, from its last instruction to its result. In the machine's trio thread."""

    def __init__(self, control: RunControl, first_run: float | None) -> None:
        """`first_run`: when the guest was let run at all, by trio's clock; None: not yet."""
        self.first_run = first_run
        self.stopped = trio.Event()
        """Set when no vCPU runs any more."""
        self.finished = trio.Event()
        """Set when the console has been passed on, too, and there is a result or a failure."""
        self.result: RunResult | None = None
        self.failure_told = False
        self._control = control
        self._overruling: Ending | None = None
        self._flush_scope: trio.CancelScope | None = None

    @property
    def ending(self) -> Ending | None:
        """Ending that the result is to have."""
        return self._overruling or self._control.ending

    def seconds(self) -> float:
        """Count the seconds since the guest was let run; 0 where it was not."""
        return 0.0 if self.first_run is None else trio.current_time() - self.first_run

    async def wait(self) -> RunResult:
        """Wait for the result. Raises what made the run fail."""
        await self.finished.wait()
        self.tell_failure()
        if self.result is None:
            raise InternalError("give a run's result", "the machine was cancelled")
        return self.result

    def tell_failure(self) -> None:
        """Raise what made the run fail, if something did."""
        failure = self._control.failure
        if failure is not None:
            self.failure_told = True
            raise failure

    def end(self, ending: Ending) -> None:
        """End the run; a guest that is over while its output is not has this ending, too."""
        if self._control.is_over and self._flush_scope is not None:
            self._overruling = ending
            self._flush_scope.cancel()
        self._control.end(ending)

    async def flush(self, console_done: trio.Event, deadline: float, timeout: float | None) -> None:
        """Wait until the console's reader has taken everything, as long as that makes sense.

        At most until `deadline` (trio's clock), which is the machine's `timeout`, in seconds.
        """
        if console_done.is_set():
            return
        ending = self._control.ending
        stopped = ending is None or ending.kind in _STOPPED
        with trio.CancelScope(deadline=deadline) as self._flush_scope:
            if stopped:
                self._flush_scope.deadline = trio.current_time() + FLUSH_GRACE
            await console_done.wait()
        if self._flush_scope.cancelled_caught and not stopped and self._overruling is None:
            self._overruling = Ending(
                EndingKind.TIME_LIMIT,
                f"the guest had ended, but nobody read its output within {timeout:g} s",
            )
