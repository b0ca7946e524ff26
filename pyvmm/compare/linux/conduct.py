# SPDX-License-Identifier: MIT
"""Booting Linux under both, in turns, and comparing what it found."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence

from pyvmm.compare.choosing import find_qemu
from pyvmm.compare.linux.report import LinuxPair, LinuxReport, LinuxRun, LinuxSubject
from pyvmm.compare.linux.runs import LinuxRequest, boot, linux_files
from pyvmm.compare.linux.verdict import judge
from pyvmm.compare.report import Absent
from pyvmm.compare.subjects import QemuAccelerator, QemuMachine
from pyvmm.errors import HostLacksError
from pyvmm.machine.config import HostChoice
from pyvmm.machine.hosts import open_host
from pyvmm.qmp.accelerators import Accelerators
from pyvmm.visible import visible

Tell = Callable[[str, int, int], None]
"""Called with what is being done, how many boots are over, and how many there are."""


async def compare_linux(
    request: LinuxRequest,
    programs: Sequence[str],
    machines: Sequence[QemuMachine],
    rounds: int,
    tell: Tell,
) -> LinuxReport:
    """Compare pyvmm with each of `machines` of each QEMU, all on KVM, `rounds` (1 or more) times.

    Raises `HostLacksError` where no QEMU has a machine of them on KVM, or there is no KVM;
    otherwise a `PyvmmError` where a monitor fails.
    """
    open_host(HostChoice.KVM).system.close()
    with linux_files(request) as files:
        pairs, absent = await _pairs(programs, machines)
        subjects = [one for pair in pairs for one in pair]
        runs: dict[LinuxSubject, list[LinuxRun]] = {one: [] for one in subjects}
        total = rounds * len(runs)
        for number in range(1, rounds + 1):
            # Who was last in a round is first in the next one.
            for subject in runs if number % 2 else reversed(runs):
                tell(f"round {number}: {subject.name}", sum(map(len, runs.values())), total)
                runs[subject].append(await boot(subject, files, number))
    return LinuxReport(
        visible(str(request.folder)),
        visible(request.command_line),
        request.memory,
        request.cpus,
        files.disk is not None,
        f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs",
        rounds,
        tuple(_pair(ours, theirs, runs) for ours, theirs in pairs),
        absent,
    )


async def _pairs(
    programs: Sequence[str], machines: Sequence[QemuMachine]
) -> tuple[list[tuple[LinuxSubject, LinuxSubject]], tuple[Absent, ...]]:
    known = Accelerators()
    found, absent = [], []
    for program in programs:
        for machine in machines:
            qemu, why = await find_qemu(known, program, QemuAccelerator.KVM, machine)
            if qemu is None:
                absent.append(Absent(visible(f"{program} kvm {machine.value}"), visible(why)))
            else:
                found.append((LinuxSubject(machine), LinuxSubject(machine, qemu)))
    if not found:
        whys = "; ".join(f"{one.name}: {one.why}" for one in absent)
        raise HostLacksError("compare Linux with QEMU", whys, "pyvmm lab run has a KVM for both")
    return found, tuple(absent)


def _pair(
    ours: LinuxSubject, theirs: LinuxSubject, runs: dict[LinuxSubject, list[LinuxRun]]
) -> LinuxPair:
    mine, its = runs[ours], runs[theirs]
    facts, its_facts = mine[0].facts, its[0].facts
    sections = judge(ours.machine, facts, its_facts) if facts and its_facts else ()
    return LinuxPair(ours, theirs, tuple(mine), tuple(its), sections)
