# SPDX-License-Identifier: MIT
"""A report as plain values for scripts; ``docs/compare.md`` describes them.

`SCHEMA` changes whenever something that was there means something else or is gone.
"""

from __future__ import annotations

from dataclasses import asdict

from pyvmm.compare.inventory import Inventory
from pyvmm.compare.observations import Counts, Inspection, Metric, TimedRun
from pyvmm.compare.ram import RegionComparison
from pyvmm.compare.report import Report, SubjectReport
from pyvmm.compare.statistics import Spread
from pyvmm.compare.subjects import PyvmmSubject, Subject
from pyvmm.compare.verdict import Finding, PairVerdict
from pyvmm.visible import visible

SCHEMA = "pyvmm-compare-1"
_DIGITS = 6


def to_json(report: Report) -> dict[str, object]:
    """The whole report; everything in it is a JSON value."""
    guest = report.guest
    return {
        "schema": SCHEMA,
        "agrees": report.agrees,
        "guest": {
            "name": guest.name,
            "bundled": guest.bundled,
            "sha256": guest.sha256,
            "memory_bytes": guest.memory,
            "cpus": guest.cpus,
            "command_line": guest.command_line,
            "timeout_s": guest.timeout,
        },
        "host": report.host,
        "rounds": report.rounds,
        "reference": report.subjects[0].subject.name,
        "subjects": [_subject_report(one) for one in report.subjects],
        "absent": [{"name": one.name, "why": one.why} for one in report.absent],
        "verdicts": [_verdict(one) for one in report.verdicts],
        "ratios": [
            {
                "ours": one.ours.name,
                "theirs": one.theirs.name,
                "metric": one.metric.value,
                **_spread(one.ratio),
            }
            for one in report.ratios
        ],
    }


def _subject(subject: Subject) -> dict[str, object]:
    if isinstance(subject, PyvmmSubject):
        return {"monitor": "pyvmm", "host": subject.host.value}
    return {
        "monitor": "qemu",
        "program": visible(subject.program),
        "version": subject.version,
        "accelerator": subject.accelerator.value,
        "machine": subject.machine.value,
        "cpu": subject.cpu,
    }


def _subject_report(one: SubjectReport) -> dict[str, object]:
    return {
        "name": one.subject.name,
        **_subject(one.subject),
        **_inspection(one.inspection),
        **_inventory(one.inventory),
        "steadiness": _finding(one.steadiness),
        "figures": {metric.value: _spread(spread) for metric, spread in one.figures.items()},
        "runs": [_run(run) for run in one.runs],
    }


def _inspection(one: Inspection) -> dict[str, object]:
    return {
        "end": {"kind": one.end.kind.value, "status": one.end.status, "detail": one.end.detail},
        "exit_code": one.exit_code,
        "console": one.console.decode("utf-8", "backslashreplace"),
        "ram_sha256": one.ram_sha256,
        "exits": _counts(one.exits, one.exits_unknown),
        "kernel": _counts(one.kernel, one.kernel_unknown),
    }


def _counts(counts: Counts | None, unknown: str) -> dict[str, object]:
    if counts is None:
        return {"source": None, "unknown": unknown, "counts": {}}
    return {"source": counts.source, "unknown": None, "counts": dict(counts.counts)}


def _inventory(inventory: Inventory) -> dict[str, object]:
    return {
        "memory_map": [asdict(line) for line in inventory.memory],
        "cpuid": [
            {
                "leaf": line.leaf,
                "subleaf": line.subleaf,
                **dict(zip(("eax", "ebx", "ecx", "edx"), line.registers, strict=True)),
            }
            for line in inventory.cpuid
        ],
    }


def _run(run: TimedRun) -> dict[str, object]:
    values = {metric.value: run.value(metric) for metric in Metric}
    rounded = {
        name: None if value is None else round(value, _DIGITS) for name, value in values.items()
    }
    return {"round": run.round, "exit_code": run.exit_code, **rounded}


def _spread(spread: Spread) -> dict[str, object]:
    return {
        "median": round(spread.median, _DIGITS),
        "quartiles": [round(spread.low, _DIGITS), round(spread.high, _DIGITS)],
        "range": [round(spread.least, _DIGITS), round(spread.most, _DIGITS)],
        "count": spread.count,
    }


def _verdict(verdict: PairVerdict) -> dict[str, object]:
    return {
        "reference": verdict.reference.name,
        "other": verdict.other.name,
        "agrees": verdict.agrees,
        "findings": [_finding(one) for one in verdict.findings],
        "ram": None if verdict.ram is None else [_region(one) for one in verdict.ram],
    }


def _region(one: RegionComparison) -> dict[str, object]:
    pages = one.pages
    return {
        "name": one.region.name,
        "start": one.region.range.start,
        "end": one.region.range.end,
        "reference_sha256": one.reference_sha256,
        "other_sha256": one.other_sha256,
        "pages": {
            "same": pages.same,
            "different": pages.different,
            "only_reference": pages.only_reference,
            "only_other": pages.only_other,
        },
        "first_differing": list(pages.samples),
    }


def _finding(one: Finding) -> dict[str, object]:
    return {
        "aspect": one.aspect.value,
        "agreement": one.agreement.value,
        "summary": one.summary,
        "detail": list(one.detail),
        "reasons": [{"key": key, "reason": reason} for key, reason in one.reasons],
    }
