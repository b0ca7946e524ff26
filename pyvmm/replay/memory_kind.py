# SPDX-License-Identifier: MIT
"""The kind of memory that a story is replayed with: files that the host can map, or private."""

from __future__ import annotations

from dataclasses import dataclass

from pyvmm.hosts.capabilities import GuestMemfdFlag, VmType


@dataclass(frozen=True, slots=True)
class MemoryKind:
    """Type of the VMs, flags of their files; with private memory, all of a story's slots are."""

    name: str
    vm_type: VmType
    file_flags: GuestMemfdFlag

    @property
    def is_private(self) -> bool:
        """Tell whether the host cannot look into it."""
        return not self.file_flags


MAPPABLE = MemoryKind("mappable", VmType.DEFAULT, GuestMemfdFlag.MMAP | GuestMemfdFlag.INIT_SHARED)
PRIVATE = MemoryKind("private", VmType.SW_PROTECTED, GuestMemfdFlag(0))
