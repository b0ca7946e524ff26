# SPDX-License-Identifier: MIT
"""Verdict on two runs: the aspects that agree, differ for a known reason, or disagree."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import unified_diff

from pyvmm.compare.differences import (
    INVENTORY_REASONS,
    KNOWN,
    KnownDifference,
    Seen,
    has_pc_bios,
)
from pyvmm.compare.inventory import Inventory, changed_lines, taken_apart
from pyvmm.compare.loader_values import REASON
from pyvmm.compare.observations import EndKind, Inspection, TimedRun
from pyvmm.compare.ram import PREDICTABLE_REGIONS, REASONS, RegionComparison
from pyvmm.compare.reasons import Evidence, GuestKnown, evidence
from pyvmm.compare.statistics import counted
from pyvmm.compare.subjects import PyvmmSubject, Subject

_DIFF_WINDOW = 400
_DIFF_LINES = 60


class Aspect(enum.Enum):
    """Aspect that is compared; the values are those of JSON."""

    CONSOLE = "console"
    END = "end"
    MEMORY_MAP = "memory-map"
    CPUID = "cpuid"
    RAM = "ram"
    STEADINESS = "steadiness"
    """The timed runs against the inspected one."""


class Agreement(enum.Enum):
    """Result of comparing an aspect; the values are those of JSON."""

    EQUAL = "equal"
    EXPLAINED = "explained"
    """It differs, for a reason that is known: the behaviour agrees."""
    DIFFERS = "differs"
    UNKNOWN = "unknown"
    """There was nothing to compare."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One aspect of one pair: `detail` are lines, a diff say; `reasons` are (key, reason) pairs."""

    aspect: Aspect
    agreement: Agreement
    summary: str
    detail: tuple[str, ...] = ()
    reasons: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """A subject against the reference; `ram` is None where RAM was not compared."""

    reference: Subject
    other: Subject
    findings: tuple[Finding, ...]
    ram: tuple[RegionComparison, ...] | None = None

    @property
    def agrees(self) -> bool:
        """True if nothing differs without a known reason."""
        return all(one.agreement is not Agreement.DIFFERS for one in self.findings)


def judge(
    reference: Inspection,
    other: Inspection,
    guest: GuestKnown,
    ram: Sequence[RegionComparison] | None,
) -> PairVerdict:
    """Compare what two inspections saw of `guest`; `ram` is None where RAM was not compared."""
    seen = Seen(reference.subject, reference.end), Seen(other.subject, other.end)
    known = [one for one in KNOWN if one.concerns(guest.bundled, *seen)]
    console, its_console = _as_far_as_both_went(reference, other)
    inventory, lines = taken_apart(console)
    its_inventory, its_lines = taken_apart(its_console)
    explain = _loaders(guest, reference, other)
    behaviour = (_console(lines, its_lines, known, explain), _end(reference, other, known))
    if any(one.agreement is Agreement.DIFFERS for one in behaviour):
        because = [
            one
            for one in evidence(guest, reference, other)
            if _agree_until(one, reference, other, known, guest.loader.explain)
        ]
        behaviour = (_because(behaviour[0], because), _because(behaviour[1], because))
    findings = [*behaviour, *_inventories(inventory, its_inventory)]
    # RAM of a bundled guest is as it leaves it, where nothing else is known to make it differ.
    is_predictable = guest.bundled is not None and not any(map(has_pc_bios, seen))
    is_predictable = is_predictable and not findings[0].reasons and not findings[1].reasons
    findings.append(_ram(reference, other, ram, is_predictable=is_predictable))
    regions = None if ram is None else tuple(ram)
    return PairVerdict(reference.subject, other.subject, tuple(findings), regions)


# -- the console --


def _as_far_as_both_went(reference: Inspection, other: Inspection) -> tuple[bytes, bytes]:
    """Both consoles; of guests that were both stopped, only what both had time to say."""
    consoles = reference.console, other.console
    if reference.end.kind is other.end.kind is EndKind.TIME_LIMIT:
        length = min(map(len, consoles))
        return consoles[0][:length], consoles[1][:length]
    return consoles


Explain = Callable[[Sequence[str], Sequence[str]], bool]
"""Test whether the reference's lines and the other's differ in nothing but what loaders choose."""


def _loaders(guest: GuestKnown, reference: Inspection, other: Inspection) -> Explain:
    is_ours = [isinstance(one.subject, PyvmmSubject) for one in (reference, other)]
    if is_ours == [True, False]:
        return guest.loader.explain
    if is_ours == [False, True]:
        return lambda theirs, ours: guest.loader.explain(ours, theirs)
    return lambda _, __: False


def _console(
    lines: Sequence[str],
    its_lines: Sequence[str],
    known: Sequence[KnownDifference],
    explain: Explain,
) -> Finding:
    if lines == its_lines:
        return Finding(Aspect.CONSOLE, Agreement.EQUAL, f"{counted(len(lines) - 1, 'line')}, equal")
    diff = _diff(lines, its_lines)
    for one in known:
        if one.all_lines:
            return _explained(Aspect.CONSOLE, "differs as a whole", diff, [one])
    used = [
        one
        for one in known
        if one.lines is not None and _matching(lines, one) != _matching(its_lines, one)
    ]
    if used and _without(lines, used) == _without(its_lines, used):
        return _explained(Aspect.CONSOLE, "differs where it may", diff, used)
    if explain(_without(lines, used), _without(its_lines, used)):
        reasons = (*((one.key, one.reason) for one in used), REASON)
        return Finding(Aspect.CONSOLE, Agreement.EXPLAINED, "differs where it may", diff, reasons)
    return Finding(Aspect.CONSOLE, Agreement.DIFFERS, "differs", diff)


def _agree_until(
    one: Evidence,
    reference: Inspection,
    other: Inspection,
    known: Sequence[KnownDifference],
    explain: Explain,
) -> bool:
    """Tell whether both said the same until pyvmm's guest came to what `one` is about.

    `explain` takes pyvmm's lines first.
    """
    ours, theirs = reference, other
    if not isinstance(reference.subject, PyvmmSubject):
        ours, theirs = other, reference
    _, before = taken_apart(ours.console[: one.said])
    _, all_theirs = taken_apart(theirs.console)
    *whole, last = before
    its_whole = list(all_theirs[: len(whole)])
    its_last = "".join(all_theirs[len(whole) : len(whole) + 1])
    agrees = _console(whole, its_whole, known, explain).agreement is not Agreement.DIFFERS
    return agrees and its_last.startswith(last)


def _because(finding: Finding, because: Sequence[Evidence]) -> Finding:
    """The finding with the reasons that there are, where it needs one."""
    if finding.agreement is not Agreement.DIFFERS or not because:
        return finding
    reasons = tuple((one.key.value, one.sentence) for one in because)
    return replace(finding, agreement=Agreement.EXPLAINED, reasons=reasons)


def _matching(lines: Iterable[str], known: KnownDifference) -> list[str]:
    pattern = known.lines
    return [line for line in lines if pattern is not None and pattern.fullmatch(line)]


def _without(lines: Iterable[str], known: Sequence[KnownDifference]) -> list[str]:
    return [line for line in lines if not any(_matching([line], one) for one in known)]


def _explained(
    aspect: Aspect, summary: str, detail: tuple[str, ...], known: Sequence[KnownDifference]
) -> Finding:
    reasons = tuple((one.key, one.reason) for one in known)
    return Finding(aspect, Agreement.EXPLAINED, summary, detail, reasons)


def _diff(lines: Sequence[str], its_lines: Sequence[str]) -> tuple[str, ...]:
    """A unified diff from the first line that differs on; long ones are cut, and say so."""
    first = next(
        (at for at, (a, b) in enumerate(zip(lines, its_lines, strict=False)) if a != b),
        min(len(lines), len(its_lines)),
    )
    start = max(0, first - 3)
    window = slice(start, start + _DIFF_WINDOW)
    diff = list(unified_diff(lines[window], its_lines[window], "reference", "other", lineterm=""))
    shown = [f"from line {start + 1} on:", *diff[2:]]
    if len(shown) > _DIFF_LINES:
        shown = [*shown[:_DIFF_LINES], f"... {len(shown) - _DIFF_LINES} more lines"]
    return tuple(shown)


# -- the end --


def _end(reference: Inspection, other: Inspection, known: Sequence[KnownDifference]) -> Finding:
    if reference.end.is_like(other.end):
        return Finding(Aspect.END, Agreement.EQUAL, str(reference.end))
    summary = f"{reference.end} and {other.end}"
    detail = tuple(
        f"{one.subject.name}: {one.end.detail}" for one in (reference, other) if one.end.detail
    )
    used = [one for one in known if one.explains_ends]
    if used:
        return _explained(Aspect.END, summary, detail, used)
    return Finding(Aspect.END, Agreement.DIFFERS, summary, detail)


# -- what the guest printed of its machine --


def _inventories(ours: Inventory, theirs: Inventory) -> list[Finding]:
    return [
        _printed(Aspect.MEMORY_MAP, changed_lines(ours.memory, theirs.memory), len(ours.memory)),
        _printed(Aspect.CPUID, changed_lines(ours.cpuid, theirs.cpuid), len(ours.cpuid)),
    ]


def _printed(aspect: Aspect, changed: tuple[str, ...], lines: int) -> Finding:
    if changed:
        reason = (aspect.value, INVENTORY_REASONS[aspect.value])
        summary = f"{counted(len(changed), 'line')} apart"
        return Finding(aspect, Agreement.EXPLAINED, summary, changed, (reason,))
    if not lines:
        return Finding(aspect, Agreement.UNKNOWN, "the guest prints none")
    return Finding(aspect, Agreement.EQUAL, f"{counted(lines, 'line')}, equal")


# -- RAM --


def _ram(
    reference: Inspection,
    other: Inspection,
    ram: Sequence[RegionComparison] | None,
    *,
    is_predictable: bool,
) -> Finding:
    if ram is None:
        running = EndKind.TIME_LIMIT in {reference.end.kind, other.end.kind}
        why = "the guest was still running" if running else "it was not looked at"
        return Finding(Aspect.RAM, Agreement.UNKNOWN, why)
    differing = [one for one in ram if one.pages.differing]
    if not differing:
        return Finding(Aspect.RAM, Agreement.EQUAL, f"equal, SHA-256 {reference.ram_sha256}")
    pages = sum(one.pages.differing for one in differing)
    total = pages + sum(one.pages.same for one in ram)
    unexplained = is_predictable and any(
        one.region.name in PREDICTABLE_REGIONS for one in differing
    )
    return Finding(
        Aspect.RAM,
        Agreement.DIFFERS if unexplained else Agreement.EXPLAINED,
        f"{pages} of {total} pages differ",
        tuple(region_line(one) for one in ram),
        tuple((one.region.name, REASONS[one.region.name]) for one in differing),
    )


def region_line(one: RegionComparison) -> str:
    """A region of RAM in a line."""
    where = f"{one.region.name} ({one.region.range.start:#x}-{one.region.range.end:#x})"
    pages = one.pages
    if not pages.differing:
        return f"{where}: {pages.same} pages, equal"
    first = ", ".join(f"{gpa:#x}" for gpa in pages.samples)
    more = ", ..." if pages.differing > len(pages.samples) else ""
    return (
        f"{where}: {pages.different} differ, {pages.only_reference} only the reference has, "
        f"{pages.only_other} only the other has, {pages.same} equal; the first: {first}{more}"
    )


# -- several runs of one --


def steadiness(inspection: Inspection, runs: Sequence[TimedRun]) -> Finding:
    """Check that each timed run ended and spoke as the inspected one."""
    if not runs:
        return Finding(Aspect.STEADINESS, Agreement.UNKNOWN, "there are no timed runs")
    detail = []
    for run in runs:
        if run.exit_code != inspection.exit_code:
            detail.append(
                f"round {run.round} ended with {run.exit_code}, not {inspection.exit_code}"
            )
        elif run.console != inspection.console:
            detail.append(f"round {run.round} said something else")
    if detail:
        return Finding(Aspect.STEADINESS, Agreement.DIFFERS, "runs differ", tuple(detail))
    return Finding(Aspect.STEADINESS, Agreement.EQUAL, f"{len(runs) + 1} runs, equal")
