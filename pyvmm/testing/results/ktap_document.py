# SPDX-License-Identifier: MIT
"""KTAP, version 1, of any results (linux Documentation/dev-tools/ktap.rst). Pure.

Each level begins with a version line, a ``# Subtest:`` line, as KUnit has it, and a plan. A test
that failed as expected is ``ok ... # XFAIL``, as kselftest says it: parsers that know SKIP only
take it for what it is, no failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pyvmm.testing.results.tap_results import TapResult, TapStatus
from pyvmm.visible import visible

MAX_DEPTH = 32
"""Levels of tests; names of those that are deeper are written as one."""
MAX_LINES = 100
"""Lines of diagnostics of a result."""

_DIRECTIVE = re.compile(r"(skip|todo|xfail|timeout|error)", re.IGNORECASE)
_MARKS = {
    TapStatus.SKIPPED: "SKIP",
    TapStatus.XFAILED: "XFAIL",
}


@dataclass(slots=True)
class _Branch:
    """A test: its own result, if it has one, and the tests below it."""

    result: TapResult | None = None
    below: dict[str, _Branch] = field(default_factory=dict)

    def statuses(self) -> Iterator[TapStatus]:
        if self.result is not None:
            yield self.result.status
        for branch in self.below.values():
            yield from branch.statuses()


def ktap_document(results: Iterable[TapResult], end: str = "") -> str:
    """KTAP of `results`, in their order; `end` says why there are no more, if the run broke off."""
    root = _Branch()
    for result in results:
        _add(root, result)
    lines = [*_level(root, ""), _totals(root)]
    if end:
        lines.append(f"Bail out! {_line(end)}")
    return "".join(f"{line}\n" for line in lines)


def _add(root: _Branch, result: TapResult) -> None:
    """Put a result into the tree; a second one of the same name beside the first."""
    levels = result.path
    if len(levels) > MAX_DEPTH:
        levels = (*levels[: MAX_DEPTH - 1], "::".join(levels[MAX_DEPTH - 1 :]))
    names = [_name(name) for name in levels]
    branch = root
    for name in names[:-1]:
        branch = branch.below.setdefault(name, _Branch())
    name, count = names[-1], 1
    while name in branch.below and branch.below[name].result is not None:
        count += 1
        name = f"{names[-1]}_{count}"
    branch.below.setdefault(name, _Branch()).result = result


def _level(parent: _Branch, indent: str, name: str = "") -> Iterator[str]:
    yield f"{indent}KTAP version 1"
    if name:
        yield f"{indent}# Subtest: {name}"
    yield f"{indent}1..{len(parent.below)}"
    for number, (each, branch) in enumerate(parent.below.items(), 1):
        if branch.below:
            yield from _level(branch, f"{indent}  ", each)
        for line in _diagnostics(branch.result):
            yield f"{indent}# {line}".rstrip()
        yield f"{indent}{_result(branch, number, each)}"


def _diagnostics(result: TapResult | None) -> list[str]:
    if result is None or not result.status.is_failure:
        return []
    lines = [_line(line) for line in result.lines]
    if len(lines) > MAX_LINES:
        left = len(lines) - MAX_LINES
        lines = [f"({left} lines left out)", *lines[left:]]
    # None of them may be taken for a line of the protocol.
    return [f"| {line}" for line in lines]


def _result(branch: _Branch, number: int, name: str) -> str:
    statuses = set(branch.statuses())
    verdict = "not ok" if any(status.is_failure for status in statuses) else "ok"
    own = branch.result
    mark, reason = "", ""
    if own is not None:
        mark, reason = _MARKS.get(own.status, ""), _line(own.reason)
        if own.status is TapStatus.CRASHED:
            mark = "ERROR"
    elif statuses == {TapStatus.SKIPPED}:
        mark = "SKIP"
    if not mark and _DIRECTIVE.match(reason):
        reason = f"- {reason}"  # It is none of ours.
    comment = f"{mark} {reason}".strip()
    return f"{verdict} {number} {name}" + (f" # {comment}" if comment else "")


def _totals(root: _Branch) -> str:
    counted = list(root.statuses())
    failed = counted.count(TapStatus.FAILED)
    passed = counted.count(TapStatus.PASSED) + counted.count(TapStatus.XPASSED)
    return (
        f"# Totals: pass:{passed} fail:{failed} xfail:{counted.count(TapStatus.XFAILED)} "
        f"skip:{counted.count(TapStatus.SKIPPED)} error:{counted.count(TapStatus.CRASHED)}"
    )


def _name(name: str) -> str:
    """`name` as KTAP can have it: one line, no hash sign, and no dash that would be cut off."""
    text = _line(name).replace("#", "_").strip()
    return text.removeprefix("- ").strip() or "_"


def _line(text: str) -> str:
    return visible(" ".join(text.split("\n")), "\t").strip("\r")
