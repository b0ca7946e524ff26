# SPDX-License-Identifier: MIT
"""The life of one booted guest, as everybody who waits for something in it shares it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import trio

from pyvmm.errors import InternalError, PyvmmError, UsageError
from pyvmm.testing.deadline import Deadline
from pyvmm.testing.drivers.driver import Driver, Event, EventName, Outcome, OutcomeKind
from pyvmm.testing.failures import Expectation, ExpectError, is_told, unforeseen
from pyvmm.testing.images.symbol_files import find_symbols
from pyvmm.testing.images.symbols import Symbols
from pyvmm.testing.request import BootRequest
from pyvmm.testing.transcript import Transcript

__tracebackhide__ = is_told

T = TypeVar("T")

TOLD = 1 << 14
"""Bytes of the console's end that a failure carries."""
_TO_BE_TOLD = 1.0
"""Seconds after which a guest's end is known that a monitor has refused something for."""


class Life:
    """Output, events and end of a guest, as they come; two tasks read them from its driver."""

    def __init__(self, request: BootRequest, driver: Driver) -> None:
        self.request = request
        self.driver = driver
        self.deadline = Deadline(request.timeout)
        self.transcript = Transcript()
        if request.saved is not None:
            self.transcript.append(request.saved.said)
        self.events: list[Event] = []
        self.outcome: Outcome | None = None
        self.is_taken = False
        """The test has taken the outcome, and judges it, or has failed by itself."""
        self.failure: PyvmmError | None = None
        """Reason why the run failed, where it was not the guest."""
        self.is_failure_told = False
        self.opened = monotonic()
        """By `time.monotonic`; who began the boot may set an earlier time."""
        self.closed: float | None = None
        self.was_resumed = False
        self.unmet: Expectation | None = None
        """The last expectation that was not met."""
        self.examine: Callable[[], Awaitable[None]] | None = None
        """Has the witness of the test look at the guest, once; never raises."""
        self._symbols: Symbols | None = None
        self._changed = trio.Event()
        driver.listen(self._hear)

    @property
    def symbols(self) -> Symbols:
        """Symbols of the image. Raises what `find_symbols` raises."""
        if self._symbols is None:
            request = self.request
            self._symbols = find_symbols(request.image, request.name, request.path, request.symbols)
        return self._symbols

    @property
    def is_closed(self) -> bool:
        """True once the boot's block has been left."""
        return self.closed is not None

    @property
    def seconds(self) -> float:
        """Wall time from the beginning of the boot until its block was left, or until now."""
        return (monotonic() if self.closed is None else self.closed) - self.opened

    def follow(self, nursery: trio.Nursery) -> None:
        """Read from the driver, in `nursery`, until the guest has ended and all is said."""
        nursery.start_soon(self._read_console)
        nursery.start_soon(self._await_end)

    async def _read_console(self) -> None:
        try:
            while data := await self.driver.receive():
                self.transcript.append(data)
                self._tell()
        except PyvmmError as failure:
            self.failure = self.failure or failure
        except Exception as error:  # noqa: BLE001 - told to the test, beside its own failure
            self.failure = self.failure or unforeseen("read the guest's console", error)
        self.transcript.has_ended = True
        self._tell()

    async def _await_end(self) -> None:
        try:
            self.outcome = await self.driver.wait()
        except PyvmmError as failure:
            self.failure = self.failure or failure
        except Exception as error:  # noqa: BLE001 - told to the test, beside its own failure
            self.failure = self.failure or unforeseen("wait for the guest's end", error)
        self._tell()

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    @property
    def is_over(self) -> bool:
        """True once the guest has ended and all that it said is in the transcript."""
        ended = self.outcome is not None or self.failure is not None
        return ended and self.transcript.has_ended

    async def change(self) -> None:
        """Wait until something has come."""
        await self._changed.wait()

    async def over(self) -> None:
        """Wait until `is_over`."""
        while not self.is_over:
            await self.change()

    def end(self) -> str:
        """End of the guest in words; raises what made the run fail.

        "" where it was the boot's time limit.
        """
        if self.failure is not None:
            failure, self.is_failure_told = self.failure, True
            raise failure
        assert self.outcome is not None
        if self.outcome.kind is OutcomeKind.TIME_LIMIT:
            return ""
        return self.outcome.detail or self.outcome.kind.value

    def not_in_time(self, limit: str) -> str:
        """Reason for a failure at a time limit of that name."""
        if self._is_stopped:
            return f"not {limit}; the guest is stopped, and vm.resume() lets it run on"
        return f"not {limit}"

    @property
    def _is_stopped(self) -> bool:
        for event in reversed(self.events):
            if event.name in (EventName.PAUSED, EventName.RESUMED):
                return event.name is EventName.PAUSED
        return self.request.paused and not self.was_resumed

    async def do(
        self, attempt: str, action: Callable[[], Awaitable[T]], timeout: float | None
    ) -> T:
        """Have the driver do something within the time limits.

        Raises `ExpectError` at those, and where it cannot be done any more because the guest has
        ended.
        """
        self.require_open(attempt)
        result: list[T] = []
        with self.deadline.limit(timeout) as limit:
            try:
                result.append(await action())
            except InternalError as error:
                await self._blame_end(attempt, error)
        if not result:
            raise ExpectError(attempt, self.not_in_time(limit.name), self.expectation())
        return result[0]

    async def _blame_end(self, attempt: str, error: InternalError) -> None:
        """Raise `error`; `ExpectError` where the guest's end, just now or before, is its cause."""
        with trio.move_on_after(_TO_BE_TOLD):
            await self.over()
        if self.is_over:
            detail = self.end() or f"not {self.deadline.name}"
            raise ExpectError(
                attempt, f"the guest has ended: {detail}", self.expectation()
            ) from None
        raise error

    def expectation(self, patterns: tuple[str, ...] = (), nearest: str = "") -> Expectation:
        """Expectation that was not met, with what was said instead."""
        said = self.transcript.since(self.transcript.end - TOLD)
        self.unmet = Expectation(patterns, nearest, said)
        return self.unmet

    def require_open(self, attempt: str) -> None:
        """Raise `UsageError` where the boot's block has been left."""
        if self.is_closed:
            raise UsageError(
                attempt, "the guest's block has been left, and it is gone", "do it inside of that"
            )
