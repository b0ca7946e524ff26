# SPDX-License-Identifier: MIT
"""Results of KTAP and TAP as a tree of tests, and as a flat list with full names. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pyvmm.testing.results.tap_lines import Directive
from pyvmm.visible import visible

SHOWN = 10
"""Failed tests that an error lists, and lines of output for each."""
SHOWN_LINES = 12


class TapStatus(enum.Enum):
    """Outcome of one test."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    XFAILED = "xfailed"
    """It failed, as was expected (TODO, XFAIL)."""
    XPASSED = "xpassed"
    """It passed, though a TODO said it would not."""
    CRASHED = "crashed"
    """It was planned or begun, and no result came."""

    @property
    def is_failure(self) -> bool:
        """Tell whether a run with such a result has failed."""
        return self in (TapStatus.FAILED, TapStatus.CRASHED)


@dataclass(frozen=True, slots=True)
class TapResult:
    """A test by its full path, outermost first; of equal paths the second ends with ``#2``.

    `reason` is what stands behind the hash sign; `lines` are diagnostics and other output from
    before it, and its block of YAML.
    """

    path: tuple[str, ...]
    status: TapStatus
    reason: str = ""
    lines: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Full path as one text."""
        return "::".join(self.path)


@dataclass(frozen=True, slots=True)
class TapReport:
    """All results of an output. A test with tests below it is there only if it says more than they.

    `problems` are what was wrong with the output itself, a line each.
    """

    results: tuple[TapResult, ...]
    problems: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[TapResult, ...]:
        """Results that make the run fail."""
        return tuple(result for result in self.results if result.status.is_failure)

    @property
    def passed(self) -> bool:
        """Tell whether something passed, nothing failed, and the output was as it must be.

        Where all was skipped it has passed as well; where there was nothing it has not.
        """
        return bool(self.results) and not self.failures and not self.problems

    def counts(self) -> dict[TapStatus, int]:
        """Number of results of each status that there is."""
        found: dict[TapStatus, int] = {}
        for result in self.results:
            found[result.status] = found.get(result.status, 0) + 1
        return found

    def describe(self) -> str:
        """One line: ``3 passed, 1 failed``."""
        counts = ", ".join(f"{count} {status.value}" for status, count in self.counts().items())
        return counts or "no tests"


class TapFailedError(AssertionError):
    """Tests in a guest have failed: `report` has them all, `reason` is there if time ran out.

    `console` is the console's end then, in lines for people.
    """

    def __init__(self, report: TapReport, reason: str = "", console: Sequence[str] = ()) -> None:
        super().__init__(report, reason, console)
        self.report = report
        self.reason = reason
        self.console = tuple(console)

    def __str__(self) -> str:
        lines = [self.reason or f"the guest's tests have not passed: {self.report.describe()}"]
        lines += self.report.problems
        for result in self.report.failures[:SHOWN]:
            lines.append(f"{result.name}: {result.reason or result.status.value}")
            lines += [f"  | {line}" for line in result.lines[-SHOWN_LINES:]]
        if len(self.report.failures) > SHOWN:
            lines.append(f"and {len(self.report.failures) - SHOWN} more that failed")
        return "\n".join((*lines, *self.console))


TapFailedError.__module__ = "pyvmm.testing"  # Its public name, in pytest's summaries too.


@dataclass(slots=True)
class TapNode:
    """A test while the output is read. `children` is None where nothing was said to be below it."""

    name: str
    number: int
    status: TapStatus
    reason: str = ""
    lines: list[str] = field(default_factory=list)
    children: list[TapNode] | None = None


def status_of(is_ok: bool, directive: Directive | None) -> TapStatus:
    """Status of a result line; an unknown directive does not count (ktap.rst)."""
    match directive:
        case Directive.SKIP:
            return TapStatus.SKIPPED
        case Directive.TODO:
            return TapStatus.XPASSED if is_ok else TapStatus.XFAILED
        case Directive.XFAIL:
            # kselftest says "ok" of what failed as expected.
            return TapStatus.XFAILED
        case Directive.TIMEOUT | Directive.ERROR:
            # "Should be not ok": an ok would contradict it.
            return TapStatus.FAILED
        case None:
            return TapStatus.PASSED if is_ok else TapStatus.FAILED


def results_of(nodes: Sequence[TapNode]) -> tuple[TapResult, ...]:
    """Flat list of a forest of tests, those below another before it."""
    return tuple(_walk(nodes, ()))


def report_of(nodes: Sequence[TapNode], problems: Sequence[str]) -> TapReport:
    """Report of a whole output."""
    return TapReport(results_of(nodes), tuple(visible(problem) for problem in problems))


def _walk(nodes: Sequence[TapNode], above: tuple[str, ...]) -> Iterator[TapResult]:
    for node, name in zip(nodes, _unique([_name(node) for node in nodes]), strict=True):
        path = (*above, name)
        below = list(_walk(node.children, path)) if node.children else []
        yield from below
        if _says_something(node, below):
            lines = tuple(visible(line, "\t") for line in node.lines)
            yield TapResult(path, node.status, visible(node.reason), lines)


def _says_something(node: TapNode, below: Sequence[TapResult]) -> bool:
    """Leaves do; of the others those that failed while nothing below them did."""
    if not below:
        return True
    if node.status is TapStatus.CRASHED:
        return True
    return node.status.is_failure and not any(each.status.is_failure for each in below)


def level_name(name: str) -> str:
    """`name` as one level of a full path, where ``::`` stands between levels."""
    return name.replace("::", ".")


def _name(node: TapNode) -> str:
    return level_name(visible(node.name.strip())) or f"test {node.number}"


def _unique(names: Sequence[str]) -> Iterator[str]:
    given = set(names)
    seen: dict[str, int] = {}
    for name in names:
        count = seen.get(name, 0) + 1
        unique = name
        while count > 1:
            unique = f"{name}#{count}"
            if unique not in given:
                given.add(unique)
                break
            count += 1
        seen[name] = count
        yield unique
