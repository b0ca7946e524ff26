# SPDX-License-Identifier: MIT
"""Events of a booted guest: all since its boot, and waiting for the next."""

from __future__ import annotations

from collections import Counter

from pyvmm.errors import UsageError
from pyvmm.testing.drivers.driver import Event, EventName
from pyvmm.testing.failures import ExpectError, is_told
from pyvmm.testing.life import Life

__tracebackhide__ = is_told


class AsyncEvents:
    """Events of a guest, in order. Each is given once by `wait_for`."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._given: Counter[EventName] = Counter()

    @property
    def all(self) -> tuple[Event, ...]:
        """All events since the boot."""
        return tuple(self._life.events)

    async def wait_for(self, name: str | EventName, *, timeout: float | None = None) -> Event:
        """Wait for the next event of that name which has not been given yet.

        Raises `ExpectError` where the guest ends without one, and at the time limits.
        """
        try:
            wanted = EventName(name)
        except ValueError:
            known = ", ".join(one.value for one in EventName)
            raise UsageError(
                f"wait for {name!r}", "there is no such event", f"give one of {known}"
            ) from None
        attempt = f"wait for the event {wanted.value!r}"
        life = self._life
        life.require_open(attempt)
        with life.deadline.limit(timeout) as limit:
            while (event := self._next(wanted)) is None and not life.is_over:
                await life.change()
        if event is None:
            detail = "" if limit.passed else life.end()
            raise ExpectError(
                attempt,
                f"the guest ended without it: {detail}" if detail else life.not_in_time(limit.name),
            )
        self._given[wanted] += 1
        return event

    def _next(self, wanted: EventName) -> Event | None:
        found = [event for event in self._life.events if event.name is wanted]
        given = self._given[wanted]
        return found[given] if given < len(found) else None
