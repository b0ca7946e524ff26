# SPDX-License-Identifier: MIT
"""Names of the kernel's and types of this package that the shell has at hand."""

from __future__ import annotations

from pyvmm.hosts import registers
from pyvmm.hosts.capabilities import GuestMemfdFlag, MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.memory.layout import GIB, MIB
from pyvmm.rules.abi import PAGE_SIZE

_VM_TYPES = {
    VmType.DEFAULT: "KVM_X86_DEFAULT_VM",
    VmType.SW_PROTECTED: "KVM_X86_SW_PROTECTED_VM",
    VmType.SEV: "KVM_X86_SEV_VM",
    VmType.SEV_ES: "KVM_X86_SEV_ES_VM",
    VmType.SNP: "KVM_X86_SNP_VM",
    VmType.TDX: "KVM_X86_TDX_VM",
}


def constants() -> dict[str, int]:
    """Flags, attributes, VM types and capabilities by their names in ``linux/kvm.h``."""
    from pyvmm.hosts.kvm.constants import Cap

    return {
        **{f"KVM_MEM_{flag.name}": flag for flag in MemslotFlag},
        **{f"GUEST_MEMFD_FLAG_{flag.name}": flag for flag in GuestMemfdFlag},
        **{f"KVM_MEMORY_ATTRIBUTE_{flag.name}": flag for flag in MemoryAttribute},
        **{name: kind for kind, name in _VM_TYPES.items()},
        **{f"KVM_CAP_{cap.name}": cap for cap in Cap},
    }


def names_of_types() -> dict[str, object]:
    """Types that requests are made of, and units in bytes."""
    return {
        "Memslot": Memslot,
        "MemslotFlag": MemslotFlag,
        "GuestMemfdFlag": GuestMemfdFlag,
        "MemoryAttribute": MemoryAttribute,
        "VmType": VmType,
        "Regs": registers.Regs,
        "Sregs": registers.Sregs,
        "PAGE_SIZE": PAGE_SIZE,
        "MIB": MIB,
        "GIB": GIB,
    }
