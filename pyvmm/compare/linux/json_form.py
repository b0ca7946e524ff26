# SPDX-License-Identifier: MIT
"""A comparison of Linux as plain values for scripts; ``docs/compare.md`` describes them."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.compare.linux.report import (
    LinuxMetric,
    LinuxPair,
    LinuxReport,
    LinuxRun,
    LinuxSubject,
    figure,
)
from pyvmm.compare.linux.verdict import SectionVerdict

SCHEMA = "pyvmm-compare-linux-1"
_DIGITS = 6


def to_json(report: LinuxReport) -> dict[str, object]:
    """The whole report; everything in it is a JSON value."""
    return {
        "schema": SCHEMA,
        "agrees": report.agrees,
        "guest": {
            "folder": report.folder,
            "command_line": report.command_line,
            "memory_bytes": report.memory,
            "cpus": report.cpus,
            "disk": report.has_disk,
        },
        "host": report.host,
        "rounds": report.rounds,
        "absent": [{"name": one.name, "why": one.why} for one in report.absent],
        "pairs": [_pair(pair) for pair in report.pairs],
    }


def _pair(pair: LinuxPair) -> dict[str, object]:
    return {
        "agrees": pair.agrees,
        "machine": pair.theirs.machine.value,
        "pyvmm": _side(pair.ours, pair.our_runs),
        "qemu": _side(pair.theirs, pair.their_runs),
        "troubles": [{"name": name, "trouble": line} for name, line in pair.troubles],
        "sections": [_section(section) for section in pair.sections],
    }


def _side(subject: LinuxSubject, runs: Sequence[LinuxRun]) -> dict[str, object]:
    facts = runs[0].facts
    spreads = {metric: figure(metric, runs) for metric in LinuxMetric}
    return {
        "name": subject.name,
        "exit_codes": [run.exit_code for run in runs],
        "figures": {
            metric.value: {
                "median": round(spread.median, _DIGITS),
                "range": [round(spread.least, _DIGITS), round(spread.most, _DIGITS)],
                "count": spread.count,
            }
            for metric, spread in spreads.items()
            if spread is not None
        },
        "facts": None
        if facts is None
        else {section.value: list(lines) for section, lines in facts.sections.items()},
    }


def _section(one: SectionVerdict) -> dict[str, object]:
    return {
        "section": one.section.value,
        "same": one.same,
        "differences": [
            {
                "only": difference.side.value,
                "fact": difference.fact,
                "key": difference.key or None,
                "reason": difference.reason or None,
            }
            for difference in one.differences
        ],
    }
