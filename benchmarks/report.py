# SPDX-License-Identifier: MIT
"""Showing results as plain text, and progress on standard error where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.figures import Spread
from benchmarks.measure import Comparison, Result, Step, Table

_UNITS = {
    "per_s": ("/s", 1.0),
    "ms": (" ms", 1.0),
    "us": (" us", 1.0),
    "mib": (" MiB", 1.0),
}


def number(value: float) -> str:
    """`value` with about three digits that mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def figure_name(figure: str) -> tuple[str, str]:
    """A figure's name in words, and its unit: from ``user_us`` "user" and "us"."""
    for suffix in ("per_s", "ms", "us", "mib"):
        if figure.endswith(f"_{suffix}"):
            return figure.removesuffix(f"_{suffix}").replace("_", " "), _UNITS[suffix][0]
    return figure.replace("_", " "), ""


def _spread(spread: Spread, unit: str) -> str:
    ends = f"({number(spread.least)} .. {number(spread.most)})"
    return f"{number(spread.median):>9}{unit:<4} {ends}"


def _comparison(result: Result, comparison: Comparison) -> str:
    ratio = result.ratio(comparison)
    name, _unit = figure_name(comparison.figure)
    what = f"  {name}: {comparison.subject} / {comparison.baseline}"
    if ratio is None:
        return f"{what}: the baseline is too small to measure in rounds as short as these"
    ends = f"{ratio.least:.2f} .. {ratio.most:.2f}" if ratio.count > 1 else "of the sums"
    line = f"{what} = {ratio.median:.2f} ({ends})"
    target = comparison.target
    if target is None:
        return f"{line}, for information"
    return f"{line}, target {target}: {'met' if target.is_met(ratio.median) else 'MISSED'}"


def _table(table: Table) -> list[str]:
    widest = max((len(row[0]) for row in table.rows), default=0)
    value = max((len(row[1]) for row in table.rows), default=0)
    return [
        f"  {table.title}",
        *(
            f"    {label:<{widest}}  {amount:>{value}}  {remark}".rstrip()
            for label, amount, remark in table.rows
        ),
    ]


def lines(result: Result) -> list[str]:
    """One benchmark's result, a line each."""
    rounds = len(next(iter(result.samples.values())))
    shown = ["", f"{result.name}: {result.title}", f"  {rounds} rounds; median (least .. most)"]
    for subject in result.subjects:
        shown.append(f"  {subject.name}: {subject.what}")
        for figure in result.figures_of(subject.name):
            name, unit = figure_name(figure)
            shown.append(f"    {name:<18}{_spread(result.spread(subject.name, figure), unit)}")
    if result.comparisons:
        shown.append("  ratios of pairs: median (least .. most)")
        shown.extend(f"  {_comparison(result, one)}" for one in result.comparisons)
    for table in result.tables:
        shown.extend(_table(table))
    return shown


@contextmanager
def progress(name: str) -> Iterator[Step]:
    """A bar on standard error while a benchmark runs; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _what, _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.fields[benchmark]}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=Console(stderr=True),
        # A thread that redraws by itself would take the interpreter lock during measurements.
        auto_refresh=False,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=1, benchmark=name)

        def step(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)
            bar.refresh()

        yield step
