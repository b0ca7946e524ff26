# SPDX-License-Identifier: MIT
"""KVM selftests: their names, and verdicts by exit status and output. Pure.

A selftest ends with 0 where it passed and with 4 where it cannot run here (kselftest.h, `KSFT_*`);
libkvm's assertions end it with 254, after they have said where (lib/assert.c).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pyvmm.signal_names import signal_name

SKIP_STATUS = 4
"""KSFT_SKIP."""
TIMED_OUT = 124
"""timeout(1), where the command has ended when told to."""
KILLED = 137
"""timeout(1), where the command had to be killed."""

_ASSERTION = re.compile(
    r"^==== Test Assertion Failure ====\n[ \t]+(?P<place>\S.*)\n(?P<rest>(?:[ \t]+\S.*\n?)*)",
    re.MULTILINE,
)
_NO_MESSAGE = re.compile(r"pid=\d+ tid=|\d+\t|\(inlined by\)|\(Backtrace|\(stack trace")
_HARNESS = re.compile(r"^# (\S+\.c:\d+:.*)$", re.MULTILINE)
_NOT_OK = re.compile(r"^not ok \d+ (.*)$", re.MULTILINE)
_SKIP = re.compile(r"#\s*SKIP\b[ \t-]*(.*)$", re.MULTILINE | re.IGNORECASE)


class SelftestStatus(enum.Enum):
    """Outcome of a selftest."""

    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"
    HUNG = "hung"
    """It had not ended at its time limit, and was ended."""
    LAB_FAILED = "lab failed"
    """The lab's kernel or machine ended while it ran, or said nothing any more."""

    @property
    def is_failure(self) -> bool:
        """Tell whether a run with such a test has failed."""
        return self not in (SelftestStatus.PASSED, SelftestStatus.SKIPPED)


@dataclass(frozen=True, slots=True)
class SelftestResult:
    """Result of one: `reason` in a line where it has not passed, `lines` all that it printed."""

    name: str
    status: SelftestStatus
    reason: str
    seconds: float
    lines: tuple[str, ...] = ()


def choose(names: Sequence[str], pattern: str | None) -> list[str]:
    """Names that a glob matches, as a whole or behind their folder, or that have `pattern` in them.

    All of them where it is None.
    """
    if pattern is None:
        return list(names)
    if any(sign in pattern for sign in "*?["):
        return [
            name
            for name in names
            if fnmatchcase(name, pattern) or fnmatchcase(name.rpartition("/")[2], pattern)
        ]
    return [name for name in names if pattern in name]


def judge(status: int, output: str, limit: float) -> tuple[SelftestStatus, str]:
    """Verdict on a test that timeout(1) ran for `limit` seconds at most, and the reason in a line.

    `status` is the exit status, negative for a signal.
    """
    if status == 0:
        return SelftestStatus.PASSED, ""
    if status == SKIP_STATUS:
        found = _SKIP.search(output)
        reason = found[1].strip() if found else ""
        return SelftestStatus.SKIPPED, reason or _last_line(output) or "it says no reason"
    if status in (TIMED_OUT, KILLED, -9):
        said = _last_line(output)
        last = f"; its last line: {said}" if said else ""
        return SelftestStatus.HUNG, f"no end after {limit:g} s{last}"
    return SelftestStatus.FAILED, _failure(output) or _ending(status, output)


def _failure(output: str) -> str:
    """The line that says what failed; "" where none does."""
    found = _ASSERTION.search(output)
    if found:
        rest = [line.strip() for line in found["rest"].splitlines()]
        said = [line for line in rest if line and not _NO_MESSAGE.match(line)]
        return ": ".join([found["place"].strip(), " ".join(said)] if said else [found["place"]])
    for pattern in (_HARNESS, _NOT_OK):
        found = pattern.search(output)
        if found:
            return found[1].strip()
    return ""


def _ending(status: int, output: str) -> str:
    ended = f"ended by {signal_name(-status)}" if status < 0 else f"ended with status {status}"
    said = _last_line(output)
    return f"{ended}; its last line: {said}" if said else ended


def _last_line(output: str) -> str:
    """The last line that says something; "" where none does.

    libkvm's seed may come last: standard output is buffered, and standard error is not.
    """
    lines = (line.strip() for line in reversed(output.splitlines()))
    return next((line for line in lines if line and not line.startswith("Random seed: ")), "")
