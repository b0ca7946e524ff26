# SPDX-License-Identifier: MIT
"""Results of a matrix's boots, and verdicts: how they fit what was expected."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyvmm.testing.drivers.driver import Outcome, OutcomeKind
from pyvmm.testing.matrix.plan import End, Expectation, Strictness
from pyvmm.visible import visible

_ENDS = {
    End.EXITED: OutcomeKind.EXITED,
    End.RESET: OutcomeKind.RESET,
    End.POWERED_OFF: OutcomeKind.POWERED_OFF,
    End.PANICKED: OutcomeKind.PANICKED,
    End.CRASHED: OutcomeKind.CRASHED,
}
_SHOWN = 60
EXPLANATION = "explanation.txt"
"""Artifact of a boot that failed: where its guest stood, what it did last, its memory."""


class Verdict(enum.Enum):
    """Result of a boot in a word; the values are what tables and JSON say."""

    PASSED = "passed"
    FAILED = "FAILED"
    FAILED_AS_EXPECTED = "known failure"
    FAILED_AS_IT_MAY = "allowed failure"
    PASSED_UNEXPECTEDLY = "PASSED unexpectedly"
    SKIPPED = "skipped"
    LOST = "LOST"
    """The guest did not fail, what was to boot it did: it says nothing of the guest."""
    NOT_RUN = "NOT RUN"

    @property
    def is_as_expected(self) -> bool:
        """True for all that leaves the matrix good."""
        return self in {
            Verdict.PASSED,
            Verdict.FAILED_AS_EXPECTED,
            Verdict.FAILED_AS_IT_MAY,
            Verdict.SKIPPED,
        }

    @property
    def is_run(self) -> bool:
        """True where the guest ran, and it is the guest that the verdict is about."""
        return self not in {Verdict.SKIPPED, Verdict.LOST, Verdict.NOT_RUN}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that tells of a boot: its name, without folders, and its bytes."""

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BootResult:
    """Result of one boot. It travels between processes and machines."""

    key: str
    """`Boot.key`."""
    verdict: Verdict
    reason: str = ""
    """A line: why not passed, or what was expected to fail."""
    outcome: Outcome | None = None
    """None where the guest did not come to an end of its own."""
    seconds: float = 0.0
    """Wall time of the boot, from the request to the end."""
    console: bytes = field(default=b"", repr=False)
    by_hand: str = ""
    """Command line that repeats the boot by hand."""
    place: str = ""
    """Worker of a cluster that it ran on; "" for this machine."""
    attempts: int = 1
    """Times that it was begun: more than one where a process or a worker was lost."""
    artifacts: tuple[Artifact, ...] = ()


def judged(expect: Expectation, faults: list[str]) -> tuple[Verdict, str]:
    """Verdict and reason for a guest that ran, with `faults` as `faults_of` finds them."""
    text = "; ".join(faults)
    match expect.strictness:
        case Strictness.FAILS if not faults:
            return Verdict.PASSED_UNEXPECTEDLY, f"it was to fail: {expect.reason}"
        case Strictness.FAILS:
            return Verdict.FAILED_AS_EXPECTED, f"{expect.reason} ({text})"
        case Strictness.MAY_FAIL if faults:
            return Verdict.FAILED_AS_IT_MAY, f"{expect.reason} ({text})"
    return (Verdict.FAILED, text) if faults else (Verdict.PASSED, "")


def faults_of(expect: Expectation, outcome: Outcome | None, console: bytes) -> list[str]:
    """List what is not as expected, a line each, the end first.

    `expect` is complete; `outcome` is None where the boot was ended because the console had said
    all (`End.CONSOLE`).
    """
    return [
        *_of_end(expect, outcome),
        *_of_console(expect, console),
    ]


def _of_end(expect: Expectation, outcome: Outcome | None) -> Iterator[str]:
    if expect.end is None or expect.end is End.CONSOLE:
        if outcome is not None:
            yield f"it ended ({ending_text(outcome)}) before its console had said all"
        return
    wanted = _ENDS[expect.end]
    if outcome is None:
        yield f"it did not end, expected was {wanted.value}"
    elif outcome.kind is not wanted:
        status = f" with {expect.status}" if expect.status is not None else ""
        yield f"{ending_text(outcome)}, expected was {wanted.value}{status}"
    elif wanted is OutcomeKind.EXITED and outcome.status != expect.status:
        yield f"exited with {outcome.status}, expected was {expect.status}"


def ending_text(outcome: Outcome) -> str:
    """End in a few words."""
    if outcome.kind is OutcomeKind.EXITED:
        return f"exited with {outcome.status}"
    detail = visible(outcome.detail)
    return f"{outcome.kind.value}: {detail}" if detail else outcome.kind.value


def _of_console(expect: Expectation, console: bytes) -> Iterator[str]:
    position = 0
    for text, pattern in expect.wanted():
        match = pattern.search(console, position)
        if match is None:
            where = " in that place" if pattern.search(console) else ""
            yield f"the console never said {_quoted(text)}{where}"
            break
        position = match.end()
    for text in expect.absent or ():
        if text.encode() in console:
            yield f"the console said {_quoted(text)}, which it must not"


def _quoted(text: str) -> str:
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
    return f'"{visible(shown)}"'
