# SPDX-License-Identifier: MIT
"""Subjects of a comparison: those asked for, else all that work on this host, found by trying."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyvmm.compare.report import Absent
from pyvmm.compare.subjects import (
    QBOOT,
    PyvmmHost,
    PyvmmSubject,
    QemuAccelerator,
    QemuMachine,
    QemuSubject,
    Subject,
    told_apart,
)
from pyvmm.errors import HostLacksError, PyvmmError
from pyvmm.machine.config import HostChoice
from pyvmm.machine.hosts import open_host
from pyvmm.qmp.accelerators import Accelerator, Accelerators
from pyvmm.visible import visible

DEFAULT_QEMU = "qemu-system-x86_64"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Subjects that the user asked for; None: whatever works here."""

    hosts: tuple[PyvmmHost, ...] | None
    programs: tuple[str, ...]
    accelerators: tuple[QemuAccelerator, ...] | None
    machines: tuple[QemuMachine, ...]


async def choose(wanted: Wanted) -> tuple[tuple[Subject, ...], tuple[Absent, ...]]:
    """The subjects, pyvmm's first, and who would have been one.

    Raises `HostLacksError` where something was asked for by name and does not work, where there is
    no QEMU, or nothing at all of one side; `QemuError` for what is no QEMU.
    """
    ours, absent = _ours(wanted.hosts)
    known = Accelerators()
    theirs: list[Subject] = []
    for program in wanted.programs:
        found, missing = await _qemus(program, wanted, known)
        theirs += found
        absent += missing
    for side, what in ((ours, "pyvmm"), (theirs, "QEMU")):
        if not side:
            why = "; ".join(f"{one.name}: {one.why}" for one in absent)
            raise HostLacksError(f"compare with {what}", why or "nothing was asked for")
    return told_apart([*ours, *theirs]), tuple(absent)


def _ours(hosts: Sequence[PyvmmHost] | None) -> tuple[list[Subject], list[Absent]]:
    found: list[Subject] = []
    absent: list[Absent] = []
    for host in hosts or PyvmmHost:
        try:
            open_host(HostChoice(host.value)).system.close()
        except PyvmmError as error:
            if hosts is not None:
                raise
            absent.append(Absent(PyvmmSubject(host).name, visible(str(error))))
        else:
            found.append(PyvmmSubject(host))
    return found, absent


async def _qemus(
    program: str, wanted: Wanted, known: Accelerators
) -> tuple[list[Subject], list[Absent]]:
    found: list[Subject] = []
    absent: list[Absent] = []
    for machine in wanted.machines:
        for accelerator in wanted.accelerators or QemuAccelerator:
            subject, why = await find_qemu(known, program, accelerator, machine)
            if subject is not None:
                found.append(subject)
                continue
            name = f"{program} {accelerator.value} {machine.value}"
            if wanted.accelerators is not None:
                raise HostLacksError(f"compare with {name}", why, "leave it out of --accel")
            absent.append(Absent(visible(name), visible(why)))
    return found, absent


async def find_qemu(
    known: Accelerators, program: str, accelerator: QemuAccelerator, machine: QemuMachine
) -> tuple[QemuSubject | None, str]:
    """Find what works, with firmware that leaves RAM alone if QEMU has it; or why nothing does.

    `known` is asked. Raises as it does.
    """
    why = ""
    for firmware in (QBOOT, "") if machine is QemuMachine.MICROVM else ("",):
        subject = QemuSubject(program, "", accelerator, machine, "", firmware=firmware)
        probed = await known.probe(program, Accelerator(accelerator.value), subject.machine_option)
        if probed.cpu is not None:
            return replace(subject, version=probed.version, cpu=probed.cpu), ""
        why = probed.why
    return None, why
