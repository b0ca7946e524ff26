# SPDX-License-Identifier: MIT
"""All that a comparison of Linux found out: frozen values, which the writers write down."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyvmm.compare.linux.facts import Facts
from pyvmm.compare.linux.verdict import SectionVerdict, unsteady
from pyvmm.compare.report import Absent
from pyvmm.compare.statistics import Spread, spread_of
from pyvmm.compare.subjects import QemuMachine, QemuSubject

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class LinuxSubject:
    """pyvmm (`qemu` None) or a QEMU, with the transport of `machine`: microvm's MMIO, q35's PCI."""

    machine: QemuMachine
    qemu: QemuSubject | None = None

    @property
    def name(self) -> str:
        """Name in reports."""
        if self.qemu is not None:
            return self.qemu.name
        return f"pyvmm {'mmio' if self.machine is QemuMachine.MICROVM else 'pci'}"


@dataclass(frozen=True, slots=True)
class LinuxRun:
    """One boot, a whole process: seconds, and bytes at most.

    `to_script` is from its start to the first line of the guest's script, `facts` None where the
    script did not come to its end.
    """

    round: int
    exit_code: int
    to_script: float | None
    total: float
    user: float
    system: float
    peak_rss: int
    facts: Facts | None


class LinuxMetric(enum.Enum):
    """Metric of a boot; the values are those of JSON."""

    UPTIME = "uptime_s"
    TO_SCRIPT = "to_script_s"
    TOTAL = "total_s"
    USER = "user_cpu_s"
    SYSTEM = "system_cpu_s"
    PEAK_RSS = "peak_rss_mib"


METRIC_TITLES: Mapping[LinuxMetric, str] = {
    LinuxMetric.UPTIME: "kernel's uptime at the command, s",
    LinuxMetric.TO_SCRIPT: "start of the process to the command, s",
    LinuxMetric.TOTAL: "whole process, s",
    LinuxMetric.USER: "user CPU, s",
    LinuxMetric.SYSTEM: "system CPU, s",
    LinuxMetric.PEAK_RSS: "peak RSS, MiB",
}
_VALUES: Mapping[LinuxMetric, Callable[[LinuxRun], float | None]] = {
    LinuxMetric.UPTIME: lambda run: None if run.facts is None else run.facts.uptime,
    LinuxMetric.TO_SCRIPT: lambda run: run.to_script,
    LinuxMetric.TOTAL: lambda run: run.total,
    LinuxMetric.USER: lambda run: run.user,
    LinuxMetric.SYSTEM: lambda run: run.system,
    LinuxMetric.PEAK_RSS: lambda run: run.peak_rss / _MIB,
}


def figure(metric: LinuxMetric, runs: Sequence[LinuxRun]) -> Spread | None:
    """The spread of a metric over `runs`; None where none of them has it."""
    return spread_of([one for run in runs if (one := _VALUES[metric](run)) is not None])


def troubles(runs: Sequence[LinuxRun]) -> tuple[str, ...]:
    """Describe in lines where the boots of one subject did not end well, or not alike."""
    found = []
    first = runs[0].facts
    for run in runs:
        if run.facts is None:
            found.append(f"boot {run.round}: the guest's command did not come to its end")
        elif first is not None:
            apart = unsteady(first, run.facts)
            found += [f"boot {run.round} only, or the first one only: {line}" for line in apart]
        if run.exit_code:
            found.append(f"boot {run.round} ended with {run.exit_code}, not with 0")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class LinuxPair:
    """pyvmm and a QEMU's machine; `sections` is empty where one of them has no facts."""

    ours: LinuxSubject
    theirs: LinuxSubject
    our_runs: tuple[LinuxRun, ...]
    their_runs: tuple[LinuxRun, ...]
    sections: tuple[SectionVerdict, ...]

    @property
    def troubles(self) -> tuple[tuple[str, str], ...]:
        """Subject's name and line for all that went wrong."""
        sides = ((self.ours, self.our_runs), (self.theirs, self.their_runs))
        return tuple((one.name, line) for one, runs in sides for line in troubles(runs))

    @property
    def agrees(self) -> bool:
        """True if all went well and each difference has a reason."""
        return bool(self.sections) and not (
            self.troubles or any(section.unknown for section in self.sections)
        )


@dataclass(frozen=True, slots=True)
class LinuxReport:
    """A finished comparison; `memory` in bytes."""

    folder: str
    command_line: str
    memory: int
    cpus: int
    has_disk: bool
    host: str
    rounds: int
    pairs: tuple[LinuxPair, ...]
    absent: tuple[Absent, ...]

    @property
    def agrees(self) -> bool:
        """True if all pairs agree."""
        return all(pair.agrees for pair in self.pairs)
