# SPDX-License-Identifier: MIT
"""Failures that are the guest's: a test that sees one has failed, as by an ``assert``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.errors import InternalError, PyvmmError
from pyvmm.testing.drivers.driver import Outcome
from pyvmm.testing.transcript import printable

if TYPE_CHECKING:
    import pytest

TOLD_LINES = 12
"""Lines of the console's end that a failure shows."""
_LINE_BEGINS, _LINE_ENDS = 120, 180
"""Letters of a long line that it shows."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """Expectation that was not met: `patterns` as a test would write them, and what came instead.

    `nearest` is the nearest miss, in a line; `said` the end of what the console said.
    """

    patterns: tuple[str, ...]
    nearest: str
    said: bytes


class ExpectError(AssertionError):
    """The guest did not do what was waited for: it ended, said what it must not, or took too long.

    `reason` is that in a line; `expectation` is there where it was to say something.
    """

    def __init__(self, attempt: str, reason: str, expectation: Expectation | None = None) -> None:
        super().__init__(attempt, reason, expectation)
        self.attempt = attempt
        self.reason = reason
        self.expectation = expectation

    def __str__(self) -> str:
        lines = [f"{self.attempt}: {self.reason}"]
        if self.expectation is not None:
            if self.expectation.nearest:
                lines.append(f"nearest: {self.expectation.nearest}")
            lines += console_end(self.expectation.said)
        return "\n".join(lines)


class GuestFailedError(AssertionError):
    """The guest panicked or crashed, and nobody had asked for that or looked at how it ended."""

    def __init__(self, outcome: Outcome, said: bytes) -> None:
        super().__init__(outcome, said)
        self.outcome = outcome
        self.said = said

    def __str__(self) -> str:
        first = (
            f"the guest has {self.outcome.kind.value}: {self.outcome.detail} "
            "(a test that means it says crash=True, or takes what vm.wait() gives)"
        )
        return "\n".join((first, *console_end(self.said)))


for _public in (ExpectError, GuestFailedError):
    _public.__module__ = "pyvmm.testing"  # Their public name, in pytest's summaries too.


def unforeseen(attempt: str, error: Exception) -> InternalError:
    """The error for one that should not have come: a defect of ours, told with it as its cause."""
    defect = InternalError(attempt, f"{type(error).__name__}: {error}")
    defect.__cause__ = error
    return defect


def console_end(said: bytes) -> list[str]:
    """The last lines that the console said, escaped, for people."""
    if not said:
        return ["the console said nothing"]
    lines = printable(said).split("\n")
    if lines[-1] == "":
        lines.pop()
    return ["the console ended with:", *(f"  | {_shortened(line)}" for line in lines[-TOLD_LINES:])]


def _shortened(line: str) -> str:
    """A line with its middle left out where it is too long to be read."""
    left_out = len(line) - _LINE_BEGINS - _LINE_ENDS
    if left_out <= 0:
        return line
    return f"{line[:_LINE_BEGINS]} [{left_out} letters] {line[-_LINE_ENDS:]}"


def says_all(failure: BaseException) -> bool:
    """True where the way to `failure` through our code tells a test nothing.

    That is what we raise for it, and no `Exception`: what a signal (Ctrl-C, pytest-timeout) has
    raised while a guest was waited for. Any other may be a defect of ours, and keeps its way.
    """
    return isinstance(failure, (AssertionError, PyvmmError)) or not isinstance(failure, Exception)


def is_told(raised: pytest.ExceptionInfo[BaseException]) -> bool:
    """True where an error says all by itself: pytest shows the test's lines then, and not ours.

    For ``__tracebackhide__``, which pytest looks for in the globals of a frame, too.
    """
    return says_all(raised.value) and not isinstance(raised.value, InternalError)
