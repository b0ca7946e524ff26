# SPDX-License-Identifier: MIT
"""A report as text: what agrees, then what it costs, in tables with bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import StringIO

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pyvmm.compare.inventory import console_lines
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
_BAR_LEAST = 6
_UNBOUNDED = 10_000
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
"""Agreements that are explained in words; the rest is in the table."""
_WITHOUT_TERMINAL = 140


def to_text(report: Report, *, is_terminal: bool, width: int | None = None) -> str:
    """The whole report, without the last newline; colours and the width are a terminal's.

    `width` in columns, None for the terminal's own, or `_WITHOUT_TERMINAL` where there is none.
    Tables that do not fit are laid out otherwise: no word is broken that has room on a line.
    """
    text = StringIO()
    console = Console(
        file=text,
        width=width if is_terminal or width else _WITHOUT_TERMINAL,
        force_terminal=is_terminal,
        highlight=False,
    )
    for line in _head(report):
        console.print(line, markup=False)
    for part in (
        *_behaviour(report, console),
        *_costs(report, console),
        *_exits(report, console),
    ):
        console.print(part)
    console.print(_last_line(report))
    return text.getvalue().removesuffix("\n")


def _needs(table: Table, console: Console) -> int:
    """Measure the columns that the table takes if no line is broken."""
    unbounded = console.options.update_width(_UNBOUNDED)
    return Measurement.get(console, unbounded, table).maximum


def _indented(text: str, by: int) -> Padding:
    """Text whose further lines begin where the first one does."""
    return Padding(Text(text, overflow="fold"), (0, 0, 0, by), expand=False)


def _packed(parts: Sequence[str], console: Console) -> Iterator[Padding]:
    """Pieces of markup, as many to a line as there is room for, none of them broken."""
    indent, line = 6, Text()
    for part in parts:
        piece = Text.from_markup(part + ("," if part is not parts[-1] else ""))
        if line and indent + len(line) + 1 + len(piece) > console.width:
            yield Padding(line, (0, 0, 0, indent), expand=False)
            line = Text()
        line = Text(" ").join([line, piece]) if line else piece
    yield Padding(line, (0, 0, 0, indent), expand=False)


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


def _behaviour(report: Report, console: Console) -> Iterator[RenderableType]:
    reference = report.subjects[0]
    title = f"behaviour, against {escape(reference.subject.name)}"
    rows = _behaviour_rows(report)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for aspect in Aspect:
        table.add_column(aspect.value, no_wrap=True)
    for name, cells in rows:
        table.add_row(escape(name), *(cells.get(aspect, "") for aspect in Aspect))
    if _needs(table, console) <= console.width:
        yield table
    else:
        yield f"\n{title}:"
        for name, cells in rows:
            yield _indented(name, 2)
            yield from _packed(
                [f"{aspect.value} {mark}" for aspect, mark in cells.items()], console
            )
        yield ""
    findings = [(reference.subject.name, reference.steadiness)]
    for verdict, one in zip(report.verdicts, report.subjects[1:], strict=True):
        findings += [(one.subject.name, two) for two in (*verdict.findings, one.steadiness)]
    told = [one for one in findings if one[1].agreement in _TOLD]
    for name, finding in told:
        yield from _lines(name, finding)
    reasons = dict.fromkeys(pair for _, finding in told for pair in finding.reasons)
    if reasons:
        yield "\nWhy:"
        yield from (_indented(f"{key}: {visible(reason)}", 2) for key, reason in reasons)


def _behaviour_rows(report: Report) -> list[tuple[str, dict[Aspect, str]]]:
    """Each subject's name, and what there is in a word of each aspect."""
    reference = report.subjects[0]
    lines = _lines_said(reference)
    own = {
        Aspect.CONSOLE: lines.pop(Aspect.CONSOLE),
        Aspect.END: escape(str(reference.inspection.end)),
        **lines,
        Aspect.STEADINESS: _MARKS[reference.steadiness.agreement],
    }
    rows = [(reference.subject.name, own)]
    for verdict, one in zip(report.verdicts, report.subjects[1:], strict=True):
        marks = {finding.aspect: _MARKS[finding.agreement] for finding in verdict.findings}
        marks[Aspect.STEADINESS] = _MARKS[one.steadiness.agreement]
        rows.append((one.subject.name, marks))
    return rows


def _lines_said(one: SubjectReport) -> dict[Aspect, str]:
    """Numbers of the lines compared under each aspect, as `Finding.summary` counts them."""
    counts = {
        Aspect.CONSOLE: console_lines(one.inspection.console),
        Aspect.MEMORY_MAP: len(one.inventory.memory),
        Aspect.CPUID: len(one.inventory.cpuid),
    }
    return {
        aspect: counted(count, "line")
        for aspect, count in counts.items()
        if count or aspect is Aspect.CONSOLE
    }


def _lines(name: str, finding: Finding) -> Iterator[RenderableType]:
    """Yield the lines on a finding; its reasons are told elsewhere."""
    keys = ", ".join(key for key, _ in finding.reasons)
    why = f" ({keys})" if keys else ""
    yield escape(f"{name}: {finding.aspect.value}: {finding.summary}{why}")
    detail = finding.detail
    if finding.aspect is Aspect.CPUID:
        detail = ()  # Long, and hardly ever of interest: the files have it.
    for line in detail[:_DETAIL_LINES]:
        yield _indented(_end_shown(visible(line, keep=_TAB)), 4)
    if len(detail) > _DETAIL_LINES:
        yield f"    ... {len(detail) - _DETAIL_LINES} more lines (--json has all)"


def _end_shown(line: str) -> str:
    """A line with the blank at its end, if any, written out: it may be all that differs."""
    if line[1:] and line[-1] in " \t":
        return line[:-1] + f"\\x{ord(line[-1]):02x}"
    return line


# -- costs --


def _costs(report: Report, console: Console) -> Iterator[RenderableType]:
    for metric in Metric:
        having = [one for one in report.subjects if metric in one.figures]
        if having:
            table = _cost_table(metric, having, _BAR_WIDTH)
            missing = _needs(table, console) - console.width
            if missing > 0:
                left = _BAR_WIDTH - missing
                table = _cost_table(metric, having, left if left >= _BAR_LEAST else 0)
            yield table
            if metric in METRIC_NOTES:
                yield f"Note: {METRIC_NOTES[metric]}."
    if report.ratios:
        table = _ratio_table(report)
        yield table if _needs(table, console) <= console.width else _ratio_list(report)


def _cost_table(metric: Metric, having: Sequence[SubjectReport], width: int) -> Table:
    """One metric of all; `width` is that of the longest bar, 0 for none."""
    title, unit = METRIC_TITLES[metric]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"{title}, {unit}", overflow="fold")
    for column in ("median", "quartiles", "range"):
        table.add_column(column, justify="right", no_wrap=True)
    if width:
        table.add_column("", no_wrap=True, min_width=width)
    most = max(one.figures[metric].median for one in having)
    for one in having:
        spread = one.figures[metric]
        table.add_row(
            escape(one.subject.name),
            number(spread.median),
            f"{number(spread.low)} - {number(spread.high)}",
            f"{number(spread.least)} - {number(spread.most)}",
            *((bar(spread.median, most, width),) if width else ()),
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


def _ratio_list(report: Report) -> Table:
    """The same for a narrow terminal: a line for each pair and metric."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("ratio by rounds", overflow="fold")
    for column in ("median", "quartiles"):
        table.add_column(column, justify="right", no_wrap=True)
    pair = ""
    for one in report.ratios:
        if pair != (pair := f"{one.ours.name} / {one.theirs.name}"):
            table.add_row(escape(pair))
        title = METRIC_TITLES[one.metric][0].removeprefix("time to ")
        ratio = one.ratio
        quartiles = f"{number(ratio.low)} - {number(ratio.high)}"
        table.add_row(f"  {title}", number(ratio.median), quartiles)
    return table


def _ratio(spread: Spread) -> str:
    return f"{number(spread.median)}  {number(spread.low)}-{number(spread.high)}"


def bar(value: float, most: float, width: int = _BAR_WIDTH) -> str:
    """`width` characters for `most`, and eighths of one."""
    eighths = round(8 * width * value / most) if most > 0 else 0
    full, part = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[part] if part else "")


# -- exits --


def _exits(report: Report, console: Console) -> Iterator[RenderableType]:
    kernel = [one for one in report.subjects if one.inspection.kernel is not None]
    if kernel:
        yield _count_table(
            "what KVM counted",
            KERNEL_COUNTERS,
            [(one.subject.name, one.inspection.kernel) for one in kernel],
            console,
        )
    own = [one for one in report.subjects if one.inspection.exits is not None]
    if own:
        kinds = sorted({kind for one in own for kind in _of(one.inspection.exits)})
        yield _count_table(
            "exits by kind, as pyvmm sees them",
            kinds,
            [(one.subject.name, one.inspection.exits) for one in own],
            console,
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
    title: str,
    kinds: Sequence[str],
    columns: Sequence[tuple[str, Counts | None]],
    console: Console,
) -> Table:
    """A column for each subject, or, where there is no room for that, a line for each number."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, no_wrap=True)
    for name, _ in columns:
        table.add_column(escape(name), justify="right", overflow="fold")
    tall = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    tall.add_column(title, overflow="fold")
    tall.add_column("", justify="right", no_wrap=True)
    for kind in kinds:
        values = [None if counts is None else counts.counts.get(kind) for _, counts in columns]
        if any(values):
            table.add_row(kind, *("-" if one is None else str(one) for one in values))
    for name, counts in columns:
        tall.add_row(escape(name))
        for kind in kinds:
            if counts is not None and counts.counts.get(kind):
                tall.add_row(f"  {kind}", str(counts.counts[kind]))
    return table if _breaks_no_word(table, console) else tall


def _breaks_no_word(table: Table, console: Console) -> bool:
    unbounded = console.options.update_width(_UNBOUNDED)
    return Measurement.get(console, unbounded, table).minimum <= console.width
