# SPDX-License-Identifier: MIT
"""A comparison of Linux as text, with no line longer than it has to be."""

from __future__ import annotations

from collections.abc import Iterator

from pyvmm.compare.linux.known import Side
from pyvmm.compare.linux.report import METRIC_TITLES, LinuxMetric, LinuxPair, LinuxReport, figure
from pyvmm.compare.statistics import counted, number
from pyvmm.folded import folded
from pyvmm.visible import visible

_TITLE = max(map(len, METRIC_TITLES.values()))


def to_text(report: LinuxReport, width: int) -> str:
    """The whole report in lines of `width` columns, without the last newline."""
    return folded(_lines(report), width)


def _lines(report: LinuxReport) -> Iterator[str]:
    disk = "with a disk" if report.has_disk else "without a disk"
    yield (
        f"Linux of {report.folder}: {report.memory >> 20} MiB, {counted(report.cpus, 'CPU')}, "
        f"{disk}; {counted(report.rounds, 'boot')} of each; on {report.host}"
    )
    for one in report.absent:
        yield f"left out: {one.name}: {one.why}"
    for pair in report.pairs:
        yield ""
        yield from _pair(pair)
    reasons = {
        one.key: one.reason
        for pair in report.pairs
        for section in pair.sections
        for one in section.differences
        if one.key
    }
    if reasons:
        yield ""
        yield "Why:"
        yield from (f"  {key}: {reason}" for key, reason in reasons.items())
    yield ""
    yield "The machines agree." if report.agrees else "The machines do not agree."


def _pair(pair: LinuxPair) -> Iterator[str]:
    yield f"{pair.ours.name} (-) and {pair.theirs.name} (+)"
    for name, line in pair.troubles:
        yield f"  {name}: {visible(line)}"
    signs = {Side.OURS: "-", Side.THEIRS: "+"}
    for section in pair.sections:
        known = len(section.differences) - section.unknown
        parts = [f"{section.same} same"]
        parts += [f"{known} known"] if known else []
        parts += [f"{section.unknown} DIFFER"] if section.unknown else []
        yield f"  {section.section.value:<11}{', '.join(parts)}"
        for one in section.differences:
            why = f"  ({one.key})" if one.key else "  DIFFERS"
            yield f"    {signs[one.side]} {visible(one.fact)}{why}"
    yield f"  {'median':<{_TITLE}} {'pyvmm':>8} {'QEMU':>8} {'ratio':>6}"
    for metric in LinuxMetric:
        ours, theirs = figure(metric, pair.our_runs), figure(metric, pair.their_runs)
        if ours is not None and theirs is not None:
            ratio = number(ours.median / theirs.median) if theirs.median else "-"
            yield (
                f"  {METRIC_TITLES[metric]:<{_TITLE}} {number(ours.median):>8} "
                f"{number(theirs.median):>8} {ratio:>6}"
            )
