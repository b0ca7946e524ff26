# SPDX-License-Identifier: MIT
"""A report that is as wide as they come: six subjects, long names, long lines."""

from __future__ import annotations

from dataclasses import replace

from pyvmm.compare.ram import PageCounts
from pyvmm.compare.reasons import GuestKnown
from pyvmm.compare.report import Absent, GuestFacts, Report, pair_ratios, subject_report
from pyvmm.compare.subjects import Subject
from pyvmm.compare.verdict import judge
from tests.compare.samples import MODEL, OURS, inspection, qemu, region, timed

PROGRAM = "/home/someone/src/qemu/build-of-a-branch/qemu-system-x86_64"
SUBJECTS: tuple[Subject, ...] = (
    OURS, MODEL, qemu("kvm"), qemu("tcg"), qemu("kvm", "pc"),
    replace(qemu("tcg", "pc"), apart=PROGRAM),
)  # fmt: skip
FACTORS = (0.2, 0.9, 0.1, 0.15, 3, 1200)


def wide_report() -> Report:
    """All against pyvmm on KVM; the last ones disagree."""
    said = [b"hello\nmore\n"] * 3 + [b"hello\nother " + b"x" * 300 + b"\n"] * 3
    looked = [inspection(one, text) for one, text in zip(SUBJECTS, said, strict=True)]
    equal = [region(PageCounts(512))]
    apart = [
        region(PageCounts(510, 0, 1, 1, (0x20_0000, 0x20_5000))),
        region(PageCounts(2_600_000, 12_345, 1, 1, tuple(range(0, 0x4000, 0x1000))), "image"),
    ]
    parts = tuple(
        subject_report(
            one, [timed(one.subject, n, n * factor, console=one.console) for n in range(1, 4)]
        )
        for one, factor in zip(looked, FACTORS, strict=True)
    )
    verdicts = tuple(
        judge(looked[0], one, GuestKnown(None), apart if number % 2 else equal)
        for number, one in enumerate(looked[1:])
    )
    return Report(
        GuestFacts(
            "/tmp/a-folder-with-a-very-long-name-that-does-not-end/image-of-a-guest.img", None,
            "cd" * 32, 64 << 20, 2, "root=/dev/disk/by-uuid/0123456789abcdef0123456789abcdef", 60.0,
        ),
        "Linux 6.18.44, 2 CPUs",
        3,
        parts,
        (Absent(f"{PROGRAM} kvm", f"it aborts: ../../target/i386/kvm/kvm.c:2893: {'y' * 90}"),),
        verdicts,
        pair_ratios(parts),
    )  # fmt: skip
