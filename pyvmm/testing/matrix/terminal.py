# SPDX-License-Identifier: MIT
"""A matrix's results as text: the table, and a line for each boot that has to be explained."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO

from rich import box
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pyvmm.testing.matrix.results import BootResult, Verdict
from pyvmm.testing.matrix.summary import Row, Summary
from pyvmm.visible import visible

_UNBOUNDED = 10_000
_WITHOUT_TERMINAL = 140
_ROWS = 200
"""Rows that are shown; of a larger matrix only those in which something is not as expected."""
_TOLD = 40
_CONSOLE_LINES = 6
_LETTERS = 200
"""Letters of a line of a console that are shown: a guest may never end one."""
_FIRST_LETTERS = 130
_INDENT = 4
_COLOURS = {
    Verdict.PASSED: "green",
    Verdict.FAILED_AS_EXPECTED: "yellow",
    Verdict.FAILED_AS_IT_MAY: "yellow",
    Verdict.SKIPPED: "dim",
}
_SHORT = {
    Verdict.PASSED: "passed",
    Verdict.FAILED_AS_EXPECTED: "known",
    Verdict.FAILED_AS_IT_MAY: "allowed",
    Verdict.SKIPPED: "skipped",
    Verdict.FAILED: "FAILED",
    Verdict.PASSED_UNEXPECTEDLY: "PASSED?",
    Verdict.LOST: "LOST",
    Verdict.NOT_RUN: "NOT RUN",
}


def to_text(summary: Summary, *, is_terminal: bool, width: int | None = None) -> str:
    """The whole report, without the last newline; colours and the width are a terminal's.

    `width` in columns, None for the terminal's own, or `_WITHOUT_TERMINAL` where there is none.
    A table that does not fit becomes a line for each boot.
    """
    text = StringIO()
    console = Console(
        file=text,
        width=width if is_terminal or width else _WITHOUT_TERMINAL,
        force_terminal=is_terminal,
        highlight=False,
    )
    for part in (*_table(summary, console), *_reasons(summary, console)):
        console.print(part)
    colour = "green" if summary.is_as_expected else "red"
    console.print(Text(summary.sentence, style=colour))
    return text.getvalue().removesuffix("\n")


def _table(summary: Summary, console: Console) -> Iterator[RenderableType]:
    rows: tuple[Row, ...] = summary.rows
    if len(rows) > _ROWS:
        rows = tuple(row for row in rows if not row.is_as_expected)[:_ROWS]
        yield (
            f"{len(summary.rows)} rows; of those with something that is not as expected, "
            f"{len(rows)} (--json and --html have all)"
        )
    if not rows:
        return
    wide = _wide(summary, rows)
    unbounded = console.options.update_width(_UNBOUNDED)
    needed = Measurement.get(console, unbounded, wide).maximum
    yield wide if needed <= console.width else _tall(summary, rows)


def _wide(summary: Summary, rows: tuple[Row, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", no_wrap=True)
    table.add_column("memory", justify="right", no_wrap=True)
    table.add_column("CPUs", justify="right", no_wrap=True)
    for host in summary.hosts:
        table.add_column(host.value, no_wrap=True)
    for row in rows:
        cells = (_cell(one) for one in row.cells)
        table.add_row(escape(row.image), row.memory, str(row.cpus), *cells)
    return table


def _tall(summary: Summary, rows: tuple[Row, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("image, memory, CPUs", overflow="fold")
    table.add_column("host", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        title = f"{escape(row.image)}, {row.memory}, {row.cpus}"
        for host, one in zip(summary.hosts, row.cells, strict=True):
            if one is not None:
                table.add_row(title, host.value, _cell(one))
                title = ""
    return table


def _cell(one: BootResult | None) -> str:
    if one is None:
        return "[dim]-[/]"
    colour = _COLOURS.get(one.verdict, "red")
    seconds = f" {one.seconds:.2f} s" if one.verdict.is_run else ""
    return f"[{colour}]{_SHORT[one.verdict]}[/]{seconds}"


def _reasons(summary: Summary, console: Console) -> Iterator[RenderableType]:
    """A line for each boot that did not just pass; equal reasons of those as expected once.

    Of those that were not run there is nothing to say but that.
    """
    told = [one for one in summary.told() if one.verdict is not Verdict.NOT_RUN]
    wrong = [one for one in told if not one.verdict.is_as_expected]
    for one in wrong[:_TOLD]:
        colour = _COLOURS.get(one.verdict, "red")
        line = Text.assemble(one.key, ": ", (one.verdict.value, colour))
        if one.reason:
            line.append(f": {visible(one.reason)}")
        yield line
        yield from _details(one, console)
    if len(wrong) > _TOLD:
        yield f"... and {len(wrong) - _TOLD} more that are not as expected"
    grouped: dict[tuple[Verdict, str], list[BootResult]] = {}
    for one in told:
        if one.verdict.is_as_expected:
            grouped.setdefault((one.verdict, one.reason), []).append(one)
    for (verdict, reason), ones in list(grouped.items())[:_TOLD]:
        more = f" and {len(ones) - 1} more" if len(ones) > 1 else ""
        yield Text(f"{ones[0].key}{more}: {verdict.value}: {visible(reason)}")
    if told:
        yield ""


def _details(one: BootResult, console: Console) -> Iterator[RenderableType]:
    lines = one.console.decode("utf-8", "backslashreplace").splitlines()
    if len(lines) > _CONSOLE_LINES:
        yield _indented(f"... {len(lines) - _CONSOLE_LINES} lines before")
    for line in lines[-_CONSOLE_LINES:]:
        shown = Text(_shortened(line))
        for part in shown.wrap(console, max(8, console.width - _INDENT - 2), overflow="fold"):
            yield _indented(f"| {part}")
    if one.by_hand:
        yield _indented(f"by hand: {visible(one.by_hand)}")


def _indented(text: str) -> Padding:
    return Padding(Text(text, overflow="fold"), (0, 0, 0, _INDENT), expand=False)


def _shortened(line: str) -> str:
    """A line of a console with at most `_LETTERS`, without its middle where it has more."""
    if len(line) > 2 * _LETTERS:  # Before each of its letters is looked at.
        line = line[:_LETTERS] + line[-_LETTERS:]
    shown = visible(line, keep="\t")
    if len(shown) <= _LETTERS:
        return shown
    return f"{shown[:_FIRST_LETTERS]} ... {shown[_FIRST_LETTERS - _LETTERS + 5 :]}"
