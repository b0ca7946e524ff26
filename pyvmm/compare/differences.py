# SPDX-License-Identifier: MIT
"""Differences that are known, each with its reason: ``docs/compare.md`` lists the same ones.

What is in here is no defect of pyvmm. Everything else that differs is a disagreement.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from pyvmm.compare.observations import End, EndKind
from pyvmm.compare.subjects import (
    PyvmmHost,
    PyvmmSubject,
    QemuAccelerator,
    QemuMachine,
    QemuSubject,
    Subject,
)
from pyvmm.memory.layout import LOW_USABLE_END

_STATUS_MASK = 0x7F
"""Bits of a status that remain in QEMU's exit code."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One run, as far as a known difference depends on it."""

    subject: Subject
    end: End


@dataclass(frozen=True, slots=True)
class KnownDifference:
    """A difference that has a reason. `key` is its name in ``docs/compare.md``.

    It concerns the bundled `guest` (None: any) on pairs of runs for which `applies`, whichever of
    the two is the reference. It explains console lines that match `lines` as a whole, and ends that
    differ if `explains_ends`; with `all_lines` the whole console.
    """

    key: str
    reason: str
    applies: Callable[[Seen, Seen], bool]
    guest: str | None = None
    lines: re.Pattern[str] | None = None
    all_lines: bool = False
    explains_ends: bool = False

    def concerns(self, guest: str | None, reference: Seen, other: Seen) -> bool:
        """Tell whether it may explain a difference between these runs of this guest."""
        if self.guest is not None and self.guest != guest:
            return False
        return self.applies(reference, other) or self.applies(other, reference)


def _is_qemu(seen: Seen) -> bool:
    return isinstance(seen.subject, QemuSubject)


def _is_tcg(seen: Seen) -> bool:
    subject = seen.subject
    return isinstance(subject, QemuSubject) and subject.accelerator is QemuAccelerator.TCG


def has_pc_bios(seen: Seen) -> bool:
    """Tell whether a BIOS has run in it that leaves things in RAM, and keeps some of it.

    A pc's does; a microvm's may, where it is not `QBOOT`.
    """
    subject = seen.subject
    if not isinstance(subject, QemuSubject):
        return False
    return subject.machine is QemuMachine.PC or not subject.firmware


def _is_on_kvm(seen: Seen) -> bool:
    subject = seen.subject
    if isinstance(subject, PyvmmSubject):
        return subject.host is PyvmmHost.KVM
    return subject.accelerator is QemuAccelerator.KVM


def _halted_and_waits(one: Seen, other: Seen) -> bool:
    return one.end.kind is EndKind.HALTED and other.end.kind is EndKind.TIME_LIMIT


def _carrier(one: Seen, other: Seen) -> bool:
    return (
        isinstance(one.subject, PyvmmSubject)
        and one.end.kind is EndKind.EXITED
        and _is_qemu(other)
        and other.end.kind is EndKind.TIME_LIMIT
    )


def _status_cut(one: Seen, other: Seen) -> bool:
    status = one.end.status
    return (
        isinstance(one.subject, PyvmmSubject)
        and one.end.kind is EndKind.BAD_STATUS
        and status is not None
        and _is_qemu(other)
        and other.end.status == status & _STATUS_MASK
    )


def _hypercall_for_ever(one: Seen, other: Seen) -> bool:
    return _is_on_kvm(one) and one.end.kind is EndKind.TIME_LIMIT and not _is_on_kvm(other)


KNOWN: tuple[KnownDifference, ...] = (
    KnownDifference(
        "usable-memory",
        "QEMU's pc keeps its ACPI tables in the last 128 KiB of RAM, which its memory map then "
        "calls reserved; pyvmm and microvm leave all of it to the guest",
        lambda one, _: has_pc_bios(one),
        lines=re.compile(r"usable memory: [0-9]+ KiB"),
    ),
    KnownDifference(
        "free-memory",
        "memtest tests what neither boot data nor the memory map takes away, and each monitor puts "
        "boot data where it likes",
        lambda one, _: _is_qemu(one),
        guest="memtest",
        lines=re.compile(r"testing [0-9a-f]{10}-[0-9a-f]{10}|[0-9]+ bytes tested, no errors"),
    ),
    KnownDifference(
        "resume-flag",
        "a processor sets RF in the RFLAGS that it saves for a fault (SDM vol. 3, 18.3.1.1); TCG "
        "does not",
        lambda one, other: _is_tcg(one) and not _is_tcg(other),
        lines=re.compile(r"  rip=[0-9a-f]{16} cs=[0-9a-f]{4} rflags=000[01]0[0-9a-f]{3}"),
    ),
    KnownDifference(
        "hypercall",
        "TCG is no KVM: VMCALL and VMMCALL are invalid opcodes there, while pyvmm's model answers "
        "them as KVM does",
        lambda one, other: _is_tcg(one) and not _is_tcg(other),
        guest="hypercall",
        all_lines=True,
        explains_ends=True,
    ),
    KnownDifference(
        "hypercall-for-ever",
        "a KVM without hardware virtualization below it rewrites VMCALL in ring 0 and executes it "
        "again, for ever; so it does under QEMU, too (guest/README.md)",
        _hypercall_for_ever,
        guest="hypercall",
        all_lines=True,
        explains_ends=True,
    ),
    KnownDifference(
        "carrier",
        "pyvmm drops the carrier (DCD) when the console's input ends, so a guest that waits for "
        "more goes on; QEMU's UART keeps it up, and the guest waits for ever",
        _carrier,
        guest="echo",
        explains_ends=True,
    ),
    KnownDifference(
        "halted",
        "pyvmm notices that nothing in the machine can wake a halted guest; QEMU waits",
        _halted_and_waits,
        explains_ends=True,
    ),
    KnownDifference(
        "status-bits",
        "pyvmm refuses a status above 63; QEMU's exit code has room for its lowest 7 bits",
        _status_cut,
        explains_ends=True,
    ),
)
"""All of them."""

INVENTORY_REASONS = {
    "memory-map": "machines have different holes and tables: pyvmm reserves from "
    f"{LOW_USABLE_END:#x} to 1 MiB "
    "in one piece, QEMU what its firmware and its ACPI tables take, and the hypervisor's pages "
    "below 4 GiB",
    "cpuid": "the processor model is another one: pyvmm shows what KVM offers of the host's, the "
    "model and QEMU their own",
}
"""Reasons why a guest may print something else of its machine; keys as in ``docs/compare.md``."""
