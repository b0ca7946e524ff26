# SPDX-License-Identifier: MIT
"""Verdict on two machines by what Linux found in them: the same, or different and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyvmm.compare.linux.facts import Facts, Section
from pyvmm.compare.linux.known import Side, reason_of
from pyvmm.compare.subjects import QemuMachine


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that only one side has. `key` and `reason` are "" where no reason is known."""

    section: Section
    side: Side
    fact: str
    key: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SectionVerdict:
    """A section: `same` counts the facts that both have."""

    section: Section
    same: int
    differences: tuple[Difference, ...]

    @property
    def unknown(self) -> int:
        """Number of differences without a reason."""
        return sum(not one.key for one in self.differences)


def judge(machine: QemuMachine, ours: Facts, theirs: Facts) -> tuple[SectionVerdict, ...]:
    """Compare all sections of pyvmm's facts with those under QEMU's `machine`."""
    return tuple(
        SectionVerdict(
            section,
            len(set(ours.sections[section]) & set(theirs.sections[section])),
            tuple(_differences(machine, section, ours, theirs)),
        )
        for section in Section
    )


def _differences(
    machine: QemuMachine, section: Section, ours: Facts, theirs: Facts
) -> Iterator[Difference]:
    mine, others = ours.sections[section], theirs.sections[section]
    for side, facts, absent in ((Side.OURS, mine, others), (Side.THEIRS, others, mine)):
        for fact in facts:
            if fact not in absent:
                yield Difference(section, side, fact, *reason_of(machine, section, side, fact))


def unsteady(first: Facts, again: Facts) -> tuple[str, ...]:
    """Facts that the same machine had in one of two boots alone; the log's are left out.

    What the kernel says depends on how fast it was.
    """
    left_out = {Section.LOG, Section.WARNINGS}
    return tuple(
        f"{section.value}: {fact}"
        for section in Section
        if section not in left_out
        for fact in sorted(set(first.sections[section]) ^ set(again.sections[section]))
    )
