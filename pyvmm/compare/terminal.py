# SPDX-License-Identifier: MIT
"""A report as text: what agrees, then what it costs, in tables with bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import StringIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pyvmm.compare.observations import (
    KERNEL_COUNTERS,
    METRIC_NOTES,
    METRIC_TITLES,
    Counts,
    Metric,
)
from pyvmm.compare.report import Report, SubjectReport
from pyvmm.compare.statistics import Spread, counted, number
from pyvmm.compare.verdict import Agreement, Aspect, Finding
from pyvmm.visible import visible

_BAR_WIDTH = 24
_EIGHTHS = " ▏▎▍▌▋▊▉"
_DETAIL_LINES = 24
_TAB = "\t"
_MARKS = {
    Agreement.EQUAL: "[green]equal[/]",
    Agreement.EXPLAINED: "[yellow]explained[/]",
    Agreement.DIFFERS: "[red]DIFFERS[/]",
    Agreement.UNKNOWN: "[dim]unknown[/]",
}
_TOLD = (Agreement.EXPLAINED, Agreement.DIFFERS)
"""What needs words; the rest is in the table."""
_WITHOUT_TERMINAL = 140


def to_text(report: Report, *, is_terminal: bool) -> str:
    """The whole report, without the last newline; colours and the width are a terminal's."""
    text = StringIO()
    console = Console(
        file=text,
        width=None if is_terminal else _WITHOUT_TERMINAL,
        force_terminal=is_terminal,
        highlight=False,
    )
    for line in _head(report):
        console.print(line, markup=False)
    for part in (*_behaviour(report), *_costs(report), *_exits(report)):
        console.print(part)
    console.print(_last_line(report))
    return text.getvalue().removesuffix("\n")


def _head(report: Report) -> Iterator[str]:
    guest = report.guest
    append = f", command line {guest.command_line!r}" if guest.command_line else ""
    cpus = counted(guest.cpus, "CPU")
    yield f"{guest.name}: {guest.memory >> 20} MiB, {cpus}{append}; on {report.host}"
    for one in report.absent:
        yield f"left out: {one.name}: {one.why}"


def _last_line(report: Report) -> str:
    if report.agrees:
        return "[green]The behaviour agrees.[/]"
    return "[red]The behaviour does not agree.[/]"


# -- behaviour --


def _behaviour(report: Report) -> Iterator[Table | str]:
    reference = report.subjects[0]
    aspects = [aspect for aspect in Aspect if aspect is not Aspect.STEADINESS]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column(f"behaviour, against {escape(reference.subject.name)}", no_wrap=True)
    for aspect in (*aspects, Aspect.STEADINESS):
        table.add_column(aspect.value)
    end = escape(str(reference.inspection.end))
    row = [counted(reference.inspection.console.count(b"\n"), "line"), end, "", "", ""]
    table.add_row(escape(reference.subject.name), *row, _MARKS[reference.steadiness.agreement])
    for verdict, one in zip(report.verdicts, report.subjects[1:], strict=True):
        marks = {finding.aspect: _MARKS[finding.agreement] for finding in verdict.findings}
        table.add_row(
            escape(one.subject.name),
            *(marks.get(aspect, "") for aspect in aspects),
            _MARKS[one.steadiness.agreement],
        )
    yield table
    findings = [(reference.subject.name, reference.steadiness)]
    for verdict, one in zip(report.verdicts, report.subjects[1:], strict=True):
        findings += [(one.subject.name, two) for two in (*verdict.findings, one.steadiness)]
    told = [one for one in findings if one[1].agreement in _TOLD]
    for name, finding in told:
        yield from _lines(name, finding)
    reasons = dict.fromkeys(pair for _, finding in told for pair in finding.reasons)
    if reasons:
        yield "\nWhy:"
        yield from (escape(f"  {key}: {reason}") for key, reason in reasons)


def _lines(name: str, finding: Finding) -> Iterator[str]:
    """What there is to tell of a finding; its reasons are told elsewhere."""
    keys = ", ".join(key for key, _ in finding.reasons)
    why = f" ({keys})" if keys else ""
    yield escape(f"{name}: {finding.aspect.value}: {finding.summary}{why}")
    detail = finding.detail
    if finding.aspect is Aspect.CPUID:
        detail = ()  # Long, and hardly ever of interest: the files have it.
    for line in detail[:_DETAIL_LINES]:
        yield escape(f"    {visible(line, keep=_TAB)}")
    if len(detail) > _DETAIL_LINES:
        yield f"    ... {len(detail) - _DETAIL_LINES} more lines (--json has all)"


# -- costs --


def _costs(report: Report) -> Iterator[Table | str]:
    for metric in Metric:
        having = [one for one in report.subjects if metric in one.figures]
        if having:
            yield _cost_table(metric, having)
            if metric in METRIC_NOTES:
                yield f"Note: {METRIC_NOTES[metric]}."
    if report.ratios:
        yield _ratio_table(report)


def _cost_table(metric: Metric, having: Sequence[SubjectReport]) -> Table:
    title, unit = METRIC_TITLES[metric]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{title}, {unit}", no_wrap=True, min_width=34)
    for column in ("median", "quartiles", "range"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("")
    most = max(one.figures[metric].median for one in having)
    for one in having:
        spread = one.figures[metric]
        table.add_row(
            escape(one.subject.name),
            number(spread.median),
            f"{number(spread.low)} - {number(spread.high)}",
            f"{number(spread.least)} - {number(spread.most)}",
            bar(spread.median, most),
        )
    return table


def _ratio_table(report: Report) -> Table:
    """Pairs down, metrics across: the median of each round's ratio, and its quartiles."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("ratio by rounds: median, quartiles", overflow="fold")
    metrics = [one for one in Metric if any(ratio.metric is one for ratio in report.ratios)]
    for metric in metrics:
        title = METRIC_TITLES[metric][0].removeprefix("time to ")
        table.add_column(title, justify="right", overflow="fold")
    cells: dict[tuple[str, str], dict[Metric, Spread]] = {}
    for one in report.ratios:
        cells.setdefault((one.ours.name, one.theirs.name), {})[one.metric] = one.ratio
    for (ours, theirs), row in cells.items():
        table.add_row(
            escape(f"{ours} / {theirs}"),
            *(_ratio(row[metric]) if metric in row else "" for metric in metrics),
        )
    return table


def _ratio(spread: Spread) -> str:
    return f"{number(spread.median)}  {number(spread.low)}-{number(spread.high)}"


def bar(value: float, most: float) -> str:
    """`_BAR_WIDTH` characters for `most`, and eighths of one."""
    eighths = round(8 * _BAR_WIDTH * value / most) if most > 0 else 0
    full, part = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[part] if part else "")


# -- exits --


def _exits(report: Report) -> Iterator[Table | str]:
    kernel = [one for one in report.subjects if one.inspection.kernel is not None]
    if kernel:
        yield _count_table(
            "what KVM counted",
            KERNEL_COUNTERS,
            [(one.subject.name, one.inspection.kernel) for one in kernel],
        )
    own = [one for one in report.subjects if one.inspection.exits is not None]
    if own:
        kinds = sorted({kind for one in own for kind in _of(one.inspection.exits)})
        yield _count_table(
            "exits by kind, as pyvmm sees them",
            kinds,
            [(one.subject.name, one.inspection.exits) for one in own],
        )
    for one in report.subjects:
        seen = one.inspection
        why = seen.exits_unknown if seen.exits is None else ""
        if seen.kernel is None:
            why = "; ".join(filter(None, (why, seen.kernel_unknown)))
        if why and seen.kernel is None and seen.exits is None:
            yield escape(f"exits of {one.subject.name}: unknown: {why}")


def _of(counts: Counts | None) -> Iterable[str]:
    return () if counts is None else counts.counts


def _count_table(
    title: str, kinds: Sequence[str], columns: Sequence[tuple[str, Counts | None]]
) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, no_wrap=True, min_width=34)
    for name, _ in columns:
        table.add_column(escape(name), justify="right")
    for kind in kinds:
        values = [None if counts is None else counts.counts.get(kind) for _, counts in columns]
        if any(values):
            table.add_row(kind, *("-" if one is None else str(one) for one in values))
    return table
