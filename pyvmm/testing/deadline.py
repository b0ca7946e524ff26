# SPDX-License-Identifier: MIT
"""The deadline of a boot, and shorter ones of single calls: whichever comes first says its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from pyvmm.errors import UsageError

_GRACE = 2.0
"""Seconds that the monitor gets after the boot's deadline to end the run, and say more about it."""


@dataclass
class Limit:
    """Time limit of one call: `passed` says, once it has come, which it was."""

    name: str
    passed: bool = False


class Deadline:
    """One boot's. Made in a trio task when the guest is booted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = trio.current_time() + seconds

    @property
    def name(self) -> str:
        """The boot's own limit, for messages."""
        return f"within {self._seconds:g} s, the boot's time limit"

    @property
    def seconds_passed(self) -> float:
        """Seconds since the boot."""
        return trio.current_time() - self._at + self._seconds

    @contextmanager
    def limit(self, timeout: float | None) -> Iterator[Limit]:
        """Cancel the block after `timeout` seconds, or when the boot's deadline has passed.

        It ends without an error then: ask `Limit.passed`. Raises `UsageError` for what is no time.
        """
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout >= 0):
            raise UsageError(f"wait with timeout={timeout!r}", "it is a number of seconds")
        latest = self._at + _GRACE
        own = float("inf") if timeout is None else trio.current_time() + timeout
        limit = Limit(
            f"within {timeout:g} s, this call's own time limit"
            if timeout is not None and own < self._at
            else self.name
        )
        with trio.CancelScope(deadline=min(own, latest)) as scope:
            yield limit
        limit.passed = scope.cancelled_caught
