# SPDX-License-Identifier: MIT
"""The console of a booted guest: what it is waited for to say, and what it is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from time import perf_counter

import trio

from pyvmm.errors import UsageError
from pyvmm.testing.drivers.driver import OutcomeKind
from pyvmm.testing.failures import ExpectError, console_end, is_told
from pyvmm.testing.life import Life
from pyvmm.testing.nearest import nearest
from pyvmm.testing.patterns import Hit, Match, Pattern, Patterns, Search, as_patterns
from pyvmm.testing.results.tap import TapParser
from pyvmm.testing.results.tap_results import TapFailedError, TapReport
from pyvmm.testing.transcript import Transcript

__tracebackhide__ = is_told

_LONG = 1.0
"""Seconds from which on a single search is told of in a failure."""
_QUIET = 0.02
"""Seconds of silence after which there is time for a thorough search; then twice that."""


class _TimedSearch(Search):
    """A search that knows how many seconds its longest look took."""

    longest = 0.0

    def look(self, transcript: Transcript, *, thorough: bool = False) -> Hit | None:
        began = perf_counter()
        try:
            return super().look(transcript, thorough=thorough)
        finally:
            self.longest = max(self.longest, perf_counter() - began)


class AsyncConsole:
    """Serial console of a guest, read all the time: a guest never waits for its reader.

    A cursor stands behind the last match: nothing is matched twice. Of a guest that says more than
    128 MiB the beginning (1 MiB) and the last 64 MiB are kept.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._cursor = 0 if life.request.saved is None else life.request.saved.cursor

    # -- output --

    async def expect(
        self, pattern: Patterns, *, timeout: float | None = None, forbid: Patterns = ()
    ) -> Match:
        """Wait until the guest says `pattern`; the cursor is behind the match then.

        Text and bytes are meant literally, a compiled regular expression is searched for. Of
        several patterns the one counts that is complete first. A match of a regular expression that
        the next letter could change (``[0-9]+``, ``$``) counts once that has come, or at the end.
        Raises `ExpectError`: at once where the guest ends without it, or says one of `forbid`
        before; and when `timeout` seconds, or the boot's time limit, have passed.
        """
        match = await self._find(as_patterns(pattern), as_patterns(forbid), timeout)
        self._cursor = match.end
        return match

    async def expect_all(
        self, patterns: Sequence[Pattern], *, timeout: float | None = None, forbid: Patterns = ()
    ) -> tuple[Match, ...]:
        """Wait until the guest has said each of `patterns`, in whatever order, even overlapping.

        The cursor is behind the last of them then; `timeout` is for all. Raises as `expect`.
        """
        until = trio.current_time() + (float("inf") if timeout is None else timeout)
        matches = []
        for index, pattern in enumerate(as_patterns(patterns)):
            left = None if timeout is None else max(0.0, until - trio.current_time())
            found = await self._find((pattern,), as_patterns(forbid), left)
            matches.append(found.numbered(index))
        self._cursor = max((match.end for match in matches), default=self._cursor)
        return tuple(matches)

    async def read_until(self, pattern: Patterns, *, timeout: float | None = None) -> bytes:
        """Bytes that the guest says up to the end of `pattern`. As `expect`, and raises as that."""
        match = await self.expect(pattern, timeout=timeout)
        return match.before + match.data

    async def read_line(self, *, timeout: float | None = None) -> str:
        """The next line, without its end; the last may lack one. Raises as `expect`."""
        life = self._life
        self._require_kept("read a line")
        found = -1
        searched = self._cursor
        with life.deadline.limit(timeout) as limit:
            while (found := life.transcript.find(b"\n", searched)) < 0 and not life.is_over:
                searched = life.transcript.end
                await life.change()
        end = life.transcript.end if found < 0 else found + 1
        line = life.transcript.between(self._cursor, end)
        if found < 0 and (limit.passed or not line):
            detail = "" if limit.passed else life.end()
            reason = f"the guest ended: {detail}" if detail else life.not_in_time(limit.name)
            raise self._failure("read a line", reason, ())
        self._cursor = end
        return line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")

    async def ktap(self, *, timeout: float | None = None, check: bool = True) -> TapReport:
        """Read KTAP or TAP until all that was planned has come, or the guest has ended.

        Where no plan says how many there are, that is the end of the guest; what is missing then
        has crashed. The cursor is behind it. Raises `TapFailedError` where a test failed, none ran
        or the output makes no sense, unless `check` is False; and, with the results so far, at the
        time limits.
        """
        life = self._life
        self._require_kept("read KTAP")
        parser = TapParser()
        searched = self._cursor
        with life.deadline.limit(timeout) as limit:
            while True:
                is_last = life.is_over
                searched = self._feed(parser, searched, is_last=is_last)
                if is_last or parser.is_complete:
                    break
                await life.change()
        is_complete = parser.is_complete
        report = parser.finish()
        if not limit.passed and life.failure is not None:
            life.end()
        ended_late = life.outcome is not None and life.outcome.kind is OutcomeKind.TIME_LIMIT
        if limit.passed or (ended_late and not is_complete):
            name = limit.name if limit.passed else life.deadline.name
            reason = f"read KTAP: {life.not_in_time(name)}: {report.describe()} until then"
            raise TapFailedError(report, reason, console_end(life.expectation().said))
        if check and not report.passed:
            raise TapFailedError(report)
        return report

    def drop(self) -> bytes:
        """Put the cursor behind all that has come so far; return what it went over."""
        skipped = self._life.transcript.since(self._cursor)
        self._cursor = self._life.transcript.end
        return skipped

    @property
    def transcript(self) -> bytes:
        """All that the guest has said since its boot, whoever read it; after its end, too."""
        return self._life.transcript.all()

    # -- input --

    async def send(self, data: str | bytes, *, timeout: float | None = None) -> None:
        """Type `data`; waits while much is queued that the guest has not taken (64 KiB).

        Raises `ExpectError` at the time limits and where the guest has ended before (one that ends
        meanwhile takes no more of it), `UsageError` for what is neither text nor bytes.
        """
        _require_typed(data)
        typed = data.encode() if isinstance(data, str) else data
        await self._life.do(f"send {data!r}", partial(self._life.driver.send, typed), timeout)

    async def send_line(self, line: str | bytes = "", *, timeout: float | None = None) -> None:
        """Type `line` and a newline. Raises as `send`."""
        _require_typed(line)
        await self.send(line + "\n" if isinstance(line, str) else line + b"\n", timeout=timeout)

    async def end_input(self) -> None:
        """End the input, as Ctrl-D on an empty line does. Raises as `send`."""
        await self._life.do("end the console's input", self._life.driver.end_input, None)

    # -- waiting --

    async def _find(
        self, wanted: Sequence[Pattern], forbidden: Sequence[Pattern], timeout: float | None
    ) -> Match:
        """Wait for a match behind the cursor, and leave that where it is."""
        if not wanted:
            raise UsageError("expect nothing", "there is no pattern", "give one")
        attempt = f"expect {', '.join(map(repr, wanted))}"
        life = self._life
        self._require_kept(attempt)
        search = _TimedSearch(wanted, forbidden, self._cursor)
        hit = search.look(life.transcript, thorough=True)
        reason = ""
        if hit is None:
            with life.deadline.limit(timeout) as limit:
                hit = await self._look_until_over(search)
            if limit.passed:
                hit = search.look(life.transcript, thorough=True)
                reason = f"{life.not_in_time(limit.name)}{_open_end(search)}{_slow(search)}"
            elif hit is None:
                detail = life.end()
                reason = f"the guest ended without it: {detail}" if detail else ""
        if hit is not None and not hit.is_forbidden:
            return hit.match
        if hit is not None:
            reason = f"it said {hit.match.pattern!r}, which is forbidden"
        reason = reason or f"{life.not_in_time(life.deadline.name)}{_slow(search)}"
        # What takes so long is not done once more.
        compared = [one for one in wanted if not (_slow(search) and isinstance(one, re.Pattern))]
        raise self._failure(attempt, reason, wanted, compared)

    async def _look_until_over(self, search: Search) -> Hit | None:
        life = self._life
        quiet = _QUIET
        while not life.is_over:
            with trio.move_on_after(quiet if search.is_behind else float("inf")) as silence:
                await life.change()
            if silence.cancelled_caught:
                quiet *= 2
            hit = search.look(life.transcript, thorough=silence.cancelled_caught)
            if hit is not None:
                return hit
        return search.look(life.transcript, thorough=True)

    def _feed(self, parser: TapParser, searched: int, *, is_last: bool) -> int:
        """Move the cursor over whole lines until the parser has all: the rest is for others.

        Returns the offset up to which no line ends behind the cursor; `searched` is the one before.
        """
        transcript = self._life.transcript
        while not parser.is_complete:
            found = transcript.find(b"\n", max(searched, self._cursor))
            if found < 0 and not (is_last and self._cursor < transcript.end):
                break
            end = transcript.end if found < 0 else found + 1
            parser.feed(transcript.between(self._cursor, end))
            self._cursor = end
        return transcript.end

    def _require_kept(self, attempt: str) -> None:
        """Raise `UsageError` where there is nothing to wait for, or some of it is kept no more."""
        self._life.require_open(attempt)
        transcript = self._life.transcript
        if self._cursor < transcript.start:
            raise UsageError(
                attempt,
                f"the guest has said {transcript.end - self._cursor} bytes since the last match, "
                f"and the first {transcript.start - self._cursor} of them are not kept",
                "expect earlier, or drop() what is not wanted",
            )

    def _failure(
        self,
        attempt: str,
        reason: str,
        wanted: Sequence[Pattern],
        compared: Sequence[Pattern] | None = None,
    ) -> ExpectError:
        """Failure to find `wanted`; `compared`: those of them with what was said, or all."""
        life = self._life
        miss = nearest(wanted if compared is None else compared, life.transcript, self._cursor)
        return ExpectError(attempt, reason, life.expectation(tuple(map(repr, wanted)), miss))


def _open_end(search: Search) -> str:
    open_end = next(search.open_ends(), None)
    if open_end is None:
        return ""
    return (
        f"; {open_end!r} matches the end of what was said, where the next letter could change it: "
        "leave `$` out, or match what follows"
    )


def _slow(search: _TimedSearch) -> str:
    if search.longest < _LONG:
        return ""
    return (
        f"; one search of what was said took {search.longest:.1f} s, and no time limit interrupts "
        "that: write a regular expression that cannot match one text in many ways"
    )


def _require_typed(data: str | bytes) -> None:
    # Types are not checked everywhere.
    if not isinstance(data, (str, bytes, bytearray, memoryview)):
        raise UsageError(f"send {data!r}", "what is typed is text or bytes")
