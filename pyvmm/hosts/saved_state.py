# SPDX-License-Identifier: MIT
"""Saved states of vCPUs and VMs: frozen values that the host that saved them can restore.

What is in one is the host's business (`hosts/kvm/saved_values`, `hosts/model/saved_values`). Each
says where it comes from, and nothing else takes it back.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pyvmm.errors import HostLacksError, UsageError


class SavingHost(enum.Enum):
    """Implementation of `pyvmm.hosts.interface` that a state was saved by."""

    KVM = "KVM"
    MODEL = "the model"


@dataclass(frozen=True, slots=True)
class Origin:
    """Origin of a saved state: what has to be the same where it is restored.

    `version` is that of the host's format. `processor` is what guests are offered: on KVM vendor,
    family, model and stepping as KVM_GET_SUPPORTED_CPUID has them (SDM vol. 2A, CPUID), on the
    model the emulator; `xsave_size` is the XSAVE area's size in bytes, 0 where there is none.
    """

    host: SavingHost
    version: int
    processor: str
    xsave_size: int

    def __str__(self) -> str:
        xsave = f", XSAVE {self.xsave_size} bytes" if self.xsave_size else ""
        return f"{self.host.value}, format {self.version}, {self.processor}{xsave}"


@dataclass(frozen=True, slots=True)
class SavedVcpu:
    """State of vCPU `index`; each host has its own kind of it."""

    origin: Origin
    index: int


@dataclass(frozen=True, slots=True)
class SavedVm:
    """State of a VM beside its vCPUs and its memory; each host has its own kind of it."""

    origin: Origin


def require_same_origin(saved: Origin, here: Origin) -> None:
    """Raise `HostLacksError`, which names both, unless a state from `saved` can be restored."""
    if saved != here:
        raise HostLacksError(
            f"restore a state saved by {saved}", f"this is {here}", "restore it where it was saved"
        )


def require_same_vcpu(saved: SavedVcpu, index: int, *, saved_apic: bool, has_apic: bool) -> None:
    """Raise `UsageError` unless `saved` is of a vCPU like vCPU `index`."""
    if saved.index != index:
        raise UsageError(
            f"restore the state of vCPU {saved.index}", f"this is vCPU {index}", "restore it there"
        )
    require_same_controllers(f"vCPU {index}", saved=saved_apic, here=has_apic)


def require_same_controllers(whose: str, *, saved: bool, here: bool) -> None:
    """Raise `UsageError` unless both or neither have interrupt controllers."""
    if saved != here:
        raise UsageError(
            f"restore the state of {whose}",
            f"it was saved {_with(saved)} interrupt controllers, and this VM is {_with(here)} them",
            "make the VM as the one that was saved",
        )


def _with(there: bool) -> str:
    return "with" if there else "without"
