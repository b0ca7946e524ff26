# SPDX-License-Identifier: MIT
"""A matrix's results as JSON."""

from __future__ import annotations

from dataclasses import asdict

from pyvmm.testing.drivers.driver import Outcome
from pyvmm.testing.matrix.results import BootResult
from pyvmm.testing.matrix.summary import Summary

FORMAT = 1
"""Number of the format: it grows when something is taken away or means another thing."""


def to_json(summary: Summary) -> dict[str, object]:
    """The report, in values that `json.dumps` takes; consoles are decoded as UTF-8."""
    return {
        "format": FORMAT,
        "matrix": summary.name,
        "place": summary.place,
        "seconds": summary.seconds,
        "as_expected": summary.is_as_expected,
        "counts": {verdict.value: count for verdict, count in summary.counts.items()},
        "boots": [
            {
                "image": row.image,
                "memory": row.memory,
                "cpus": row.cpus,
                "host": host.value,
                **result_to_json(one),
            }
            for row in summary.rows
            for host, one in zip(summary.hosts, row.cells, strict=True)
            if one is not None
        ],
    }


def result_to_json(one: BootResult) -> dict[str, object]:
    """One result."""
    return {
        "boot": one.key,
        "verdict": one.verdict.value,
        "as_expected": one.verdict.is_as_expected,
        "reason": one.reason,
        "end": _outcome(one.outcome),
        "seconds": one.seconds,
        "place": one.place,
        "attempts": one.attempts,
        "by_hand": one.by_hand,
        "console": one.console.decode("utf-8", "backslashreplace"),
    }


def _outcome(outcome: Outcome | None) -> dict[str, object] | None:
    return None if outcome is None else {**asdict(outcome), "kind": outcome.kind.value}
