# SPDX-License-Identifier: MIT
"""All that a comparison found out: one frozen value, which the writers write down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from pyvmm.compare.inventory import Inventory, taken_apart
from pyvmm.compare.observations import Inspection, Metric, TimedRun
from pyvmm.compare.statistics import Spread, ratios, spread_of
from pyvmm.compare.subjects import PyvmmSubject, QemuSubject, Subject
from pyvmm.compare.verdict import Agreement, Finding, PairVerdict, steadiness

NAME_MAX = 200


@dataclass(frozen=True, slots=True)
class GuestFacts:
    """The guest that was run, and its machine: `memory` in bytes, `timeout` in seconds."""

    name: str
    bundled: str | None
    sha256: str
    memory: int
    cpus: int
    command_line: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Absent:
    """Subject that could not be compared, and the reason."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class SubjectReport:
    """Results of one subject; `figures` are empty where it was not timed."""

    subject: Subject
    inspection: Inspection
    inventory: Inventory
    steadiness: Finding
    figures: Mapping[Metric, Spread]
    runs: tuple[TimedRun, ...]


@dataclass(frozen=True, slots=True)
class PairRatio:
    """`ours` by `theirs`, round by round: below 1 pyvmm needs less."""

    ours: Subject
    theirs: Subject
    metric: Metric
    ratio: Spread


@dataclass(frozen=True, slots=True)
class Report:
    """A finished comparison. The first of `subjects` is the reference of all `verdicts`."""

    guest: GuestFacts
    host: str
    rounds: int
    subjects: tuple[SubjectReport, ...]
    absent: tuple[Absent, ...]
    verdicts: tuple[PairVerdict, ...]
    ratios: tuple[PairRatio, ...]

    @property
    def agrees(self) -> bool:
        """True if all subjects behave alike, and each does so from run to run."""
        steady = all(one.steadiness.agreement is not Agreement.DIFFERS for one in self.subjects)
        return steady and all(verdict.agrees for verdict in self.verdicts)


def subject_report(inspection: Inspection, runs: Sequence[TimedRun]) -> SubjectReport:
    """One subject's part, of its inspection and its timed runs."""
    figures = {}
    for metric in Metric:
        values = [value for run in runs if (value := run.value(metric)) is not None]
        spread = spread_of(values)
        if spread is not None:
            figures[metric] = spread
    inventory, _ = taken_apart(inspection.console)
    return SubjectReport(
        inspection.subject,
        inspection,
        inventory,
        steadiness(inspection, runs),
        figures,
        tuple(runs),
    )


def pair_ratios(subjects: Sequence[SubjectReport]) -> tuple[PairRatio, ...]:
    """Each pyvmm by each QEMU, in each metric that both have."""
    ours = [one for one in subjects if isinstance(one.subject, PyvmmSubject)]
    theirs = [one for one in subjects if isinstance(one.subject, QemuSubject)]
    found = []
    for mine, its, metric in product(ours, theirs, Metric):
        ratio = ratios(_by_round(mine, metric), _by_round(its, metric))
        if ratio is not None:
            found.append(PairRatio(mine.subject, its.subject, metric, ratio))
    return tuple(found)


def _by_round(one: SubjectReport, metric: Metric) -> dict[int, float]:
    return {run.round: value for run in one.runs if (value := run.value(metric)) is not None}
