# SPDX-License-Identifier: MIT
"""CPUID of vCPUs: one answer, and the parts of the interface that have to do with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """One answer of the CPUID instruction: leaf `function`, subleaf `index`.

    `flags` bit 0: `index` counts (KVM_CPUID_FLAG_SIGNIFCANT_INDEX).
    """

    function: int
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


class CpuidVcpu(Protocol):
    """The part of `interface.Vcpu` that makes it the processor that a guest expects."""

    def set_cpuid(self, entries: tuple[CpuidEntry, ...]) -> None:
        """Set the guest's table, before the first run (KVM refuses it later)."""
        ...

    def follow_host_tsc(self) -> None:
        """Let the guest's time stamp counter go at the host's rate, before the first run.

        That is what a new vCPU is meant to do, and does not where KVM has kept the rate from before
        the kernel refined it: then the vCPU's counter stands still as KVM sees it, and no timer
        ever ends. Where the host cannot be told so, nothing changes.
        """
        ...


class CpuidHost(Protocol):
    """The part of `interface.System` that tells what a guest's CPUID can have."""

    def guest_cpuid(self) -> tuple[CpuidEntry, ...]:
        """Every feature that a guest with interrupt controllers can have; none: a table is given.

        The model's processors have one of their own, that cannot be replaced.
        """
        ...

    def keeps_xsave(self) -> bool:
        """Tell whether the host sees a guest's XSETBV, without which XSAVE goes wrong.

        On KVM it is found by trying, once, which takes milliseconds.
        """
        ...
