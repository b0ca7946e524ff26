# SPDX-License-Identifier: MIT
"""Saved states of the model's vCPUs and VMs. `FORMAT` is the version of all of them."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.hosts.exits import Exit
from pyvmm.hosts.pit import SavedPit
from pyvmm.hosts.saved_state import SavedVcpu, SavedVm

FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedAccesses:
    """Accesses that an instruction has made which is to be begun again (`MmioAccesses`)."""

    done: tuple[tuple[Exit, int], ...] = ()
    again: tuple[tuple[Exit, int], ...] = ()
    is_begun_again: bool = False
    left_at: tuple[int, int] = (-1, -1)
    tries: int = 0


@dataclass(frozen=True, slots=True)
class SavedApic:
    """State of a local APIC; see `LocalApic`."""

    task_priority: int
    spurious: int
    requests: int
    in_service: int


@dataclass(frozen=True, slots=True)
class ModelSavedVcpu(SavedVcpu):
    """State of a vCPU. `context` is the processor as Unicorn keeps it (`CpuState`).

    It has x87 and SSE as well. `tsc` is the time stamp counter, which goes on from there. `apic` is
    None where the guest has never touched its local APIC.
    """

    context: bytes
    cr8: int
    apic_base: int
    tsc: int
    has_cpuid: bool
    has_controllers: bool
    is_halted: bool
    waits_for_startup: bool
    accesses: SavedAccesses
    apic: SavedApic | None = None


@dataclass(frozen=True, slots=True)
class SavedPic:
    """State of one 8259A; see `Pic`."""

    base: int
    level_triggered: int
    mask: int
    requests: int
    in_service: int
    lines: int
    lowest: int
    expecting: tuple[int, ...]
    auto_end: bool
    read_in_service: bool


@dataclass(frozen=True, slots=True)
class ModelSavedVm(SavedVm):
    """State of a VM's controllers: two 8259A or none, the timer."""

    pics: tuple[SavedPic, ...]
    pit: SavedPit | None
