# SPDX-License-Identifier: MIT
"""Subjects, inspections and runs, made up."""

from __future__ import annotations

from pyvmm.compare.observations import Counts, End, EndKind, Inspection, TimedRun
from pyvmm.compare.ram import PageCounts, RamRegion, RegionComparison
from pyvmm.compare.reasons import GuestKnown
from pyvmm.compare.report import (
    Absent,
    GuestFacts,
    Report,
    pair_ratios,
    subject_report,
)
from pyvmm.compare.subjects import (
    PyvmmHost,
    PyvmmSubject,
    QemuAccelerator,
    QemuMachine,
    QemuSubject,
    Subject,
)
from pyvmm.compare.verdict import judge
from pyvmm.memory.layout import GpaRange

OURS = PyvmmSubject(PyvmmHost.KVM)
MODEL = PyvmmSubject(PyvmmHost.MODEL)


def qemu(
    accelerator: str = "tcg", machine: str = "microvm", program: str = "qemu-system-x86_64"
) -> QemuSubject:
    return QemuSubject(program, "7.2.22", QemuAccelerator(accelerator), QemuMachine(machine), "max")


EXITED = End(EndKind.EXITED, 0, "the guest ended with status 0")
STOPPED = End(EndKind.TIME_LIMIT, None, "it was still running")


def inspection(
    subject: Subject, console: bytes = b"hello\n", end: End = EXITED, exit_code: int = 0
) -> Inspection:
    kernel = Counts("KVM", {"exits": 12, "halt_exits": 1}) if subject is OURS else None
    return Inspection(
        subject, end, exit_code, console, Counts("pyvmm", {"IO": 3}), kernel,
        kernel_unknown="" if kernel else "there is no KVM", ram_sha256="ab" * 32,
    )  # fmt: skip


def timed(
    subject: Subject, number: int, seconds: float, exit_code: int = 0, console: bytes = b"hello\n"
) -> TimedRun:
    return TimedRun(
        subject, number, seconds / 2, seconds, seconds / 3, seconds / 4, 40 << 20, exit_code,
        console,
    )  # fmt: skip


def region(pages: PageCounts, name: str = "rest") -> RegionComparison:
    return RegionComparison(
        RamRegion(name, GpaRange(0x20_0000, 0x40_0000), 0x20_0000), "11" * 32, "22" * 32, pages
    )


def report(
    *,
    console: bytes = b"hello\n",
    other_console: bytes = b"hello\n",
    rounds: int = 3,
    name: str = "hello",
    append: str = "",
) -> Report:
    """pyvmm on KVM against QEMU with TCG."""
    theirs = qemu()
    looked = [inspection(OURS, console), inspection(theirs, other_console)]
    ram = [region(PageCounts(510, 0, 1, 1, (0x20_0000, 0x20_5000)))]
    parts = tuple(
        subject_report(
            one,
            [
                timed(one.subject, number, number * factor, console=one.console)
                for number in range(1, rounds + 1)
            ],
        )
        for one, factor in zip(looked, (0.2, 0.1), strict=True)
    )
    return Report(
        GuestFacts(name, None, "cd" * 32, 64 << 20, 2, append, 60.0),
        "Linux <6>",
        rounds,
        parts,
        (Absent("QEMU kvm", "it <aborts>"),),
        (judge(looked[0], looked[1], GuestKnown(None), ram),),
        pair_ratios(parts),
    )
