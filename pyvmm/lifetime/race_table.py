# SPDX-License-Identifier: MIT
"""Purpose of each protection: the harm that comes without it, in each locking."""

from __future__ import annotations

from pyvmm.lifetime.evidence import Evidence
from pyvmm.lifetime.locks import Harm, Protection
from pyvmm.lifetime.race_starts import PROTECTIONS, Scenario
from pyvmm.lifetime.race_tasks import Act, Task
from pyvmm.lifetime.races import Schedule, race
from pyvmm.lifetime.steps import Locking

COMPARED = (Locking.MAINLINE, Locking.NEWEST, Locking.PROPOSAL)
"""Linux 7.3, the newest that was read, and the mail's design."""
_BY_THREE = Scenario("bound", (Task(Act.GUEST), Task(Act.UNBIND), Task(Act.CLOSE_FILE)))
OLDER = Scenario("bound", (Task(Act.UNBIND), Task(Act.CLOSE_FILE), Task(Act.MEMORY_ERROR)))
"""Scenario that tells 6.8 to 7.0 from what came after."""


def purposes(evidence: Evidence) -> list[tuple[Protection, list[str]]]:
    """Each protection with a cell for each of `COMPARED`."""
    return [
        (each, [_purpose(evidence, locking, each) for locking in COMPARED])
        for each in Protection
        if any(each in PROTECTIONS[locking] for locking in COMPARED)
    ]


def _purpose(evidence: Evidence, locking: Locking, protection: Protection) -> str:
    if protection not in PROTECTIONS[locking]:
        return "not there"
    found = dict(evidence.raced(locking, protection).harms)
    if not found:
        found = dict(race(locking, _BY_THREE, frozenset({protection})).harms)
    if not found:
        return "no harm: others do the same"
    first = min(found.values(), key=lambda each: (len(each.steps), str(each.scenario)))
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    race_of_it = str(first.scenario).replace(" | ", " \\| ")
    return f"{first.harm.value}{more} ({race_of_it}; {len(first.steps)} steps)"


def older_kernels() -> Schedule:
    """Schedule by which 6.8 to 7.0 leave an invalidation begun."""
    return race(Locking.MAINLINE_BEFORE, OLDER, frozenset()).harms[Harm.UNBALANCED]


def in_columns(schedule: Schedule) -> tuple[list[str], list[list[str]]]:
    """A schedule as a table: a column for each task, a row for each step."""
    tasks = schedule.scenario.tasks
    rows = [
        [str(number), *(name if column == t else "" for column in range(len(tasks)))]
        for number, (t, name) in enumerate(schedule.steps, 1)
    ]
    return ["", *map(str, tasks)], rows
