# SPDX-License-Identifier: MIT
"""Breakpoints of a vCPU: the parts of `interface.Vcpu` and `interface.System`; which can be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyvmm.errors import HostLacksError, UsageError


class BreakableVcpu(Protocol):
    """The part of `interface.Vcpu` that stops it at an instruction."""

    def set_breakpoints(self, addresses: Sequence[int], *, step: bool = False) -> None:
        """Have `run` return `exits.Debug` before the instruction at any of these linear addresses.

        They replace those before; none: no breakpoints, and nothing is slower. The `run` after
        such an exit executes the instruction and goes on; where it finds the vCPU elsewhere, or
        restored, it is as any other. Complete the last exit first (`complete`). They are no part
        of what `save` saves, and stay through `restore` and `reset`. Raises `UsageError` for one
        that is no address, `HostLacksError` for more than `BreakableHost.most_breakpoints`.

        `step`: the next instruction is executed whatever is at it, and without an interrupt before
        it where the host can keep them out, and then `run` returns `exits.Debug` with
        `exits.SINGLE_STEP` in DR6, once. What that instruction exits for comes first. The next call
        of this, `restore` and `reset` take back a step that has not been made.
        """
        ...

    def has_stood_still(self) -> None:
        """Be told before a `run` that it has stood still on request, perhaps for long.

        A guest that has taken kvmclock is told, lest it take the time for a hang of its own.
        """
        ...

    def code_has_changed(self) -> None:
        """Be told that memory was written from outside, as debuggers do, which may be code.

        Between two runs. A processor sees that by itself; what translates code does not.
        """
        ...


class BreakableHost(Protocol):
    """The part of `interface.System` that tells whether breakpoints work."""

    def most_breakpoints(self) -> int:
        """Count the breakpoints that a vCPU can have at a time; 0: here none would stop it.

        On KVM it is found by trying, once, which takes milliseconds.
        """
        ...

    def can_step(self) -> bool:
        """Tell whether a step ends after one instruction here; found as `most_breakpoints`."""
        ...


def require_breakpoints(addresses: Sequence[int], most: int) -> None:
    """Raise `HostLacksError` for more than `most`, `UsageError` for one that is no address."""
    attempt = f"stop the guest at {', '.join(f'{address:#x}' for address in addresses)}"
    for address in addresses:
        if not 0 <= address < 1 << 64:
            raise UsageError(attempt, f"{address:#x} is no linear address of 64 bits")
        if 1 << 56 <= address < (1 << 64) - (1 << 56):
            raise UsageError(attempt, f"{address:#x} is not canonical: no code can be there")
    if len(addresses) > most:
        raise HostLacksError(
            attempt,
            f"the host can have {most} breakpoints at a time"
            if most
            else "breakpoints stop no guest on this host: its KVM, tried with one, ran past it",
            "clear some of them" if most else "use the model (--host model)",
        )
