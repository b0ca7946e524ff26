# SPDX-License-Identifier: MIT
"""Capabilities of a host, as one frozen value that pure code can decide on.

Each field is the answer to one KVM_CHECK_EXTENSION (api.rst 4.4; the number is in the comment), so
a decision is always made on a feature and never on a version.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class GuestMemfdFlag(enum.IntFlag):
    """Flags of KVM_CREATE_GUEST_MEMFD (api.rst 4.142)."""

    MMAP = 1 << 0
    INIT_SHARED = 1 << 1


class MemoryAttribute(enum.IntFlag):
    """Attributes of KVM_SET_MEMORY_ATTRIBUTES (api.rst 4.141)."""

    PRIVATE = 1 << 3


class VmType(enum.IntEnum):
    """The argument of KVM_CREATE_VM on x86; KVM_CAP_VM_TYPES is a mask of 1 << type."""

    DEFAULT = 0
    SW_PROTECTED = 1
    SEV = 2
    SEV_ES = 3
    SNP = 4
    TDX = 5


class Capabilities(NamedTuple):
    """The answers of one host. Zero (or an empty flag) means: not offered."""

    api_version: int
    max_vcpus: int  # KVM_CAP_MAX_VCPUS (66)
    nr_memslots: int  # KVM_CAP_NR_MEMSLOTS (10)
    user_memory2: bool  # KVM_CAP_USER_MEMORY2 (231)
    memory_fault_info: bool  # KVM_CAP_MEMORY_FAULT_INFO (232)
    memory_attributes: MemoryAttribute  # KVM_CAP_MEMORY_ATTRIBUTES (233)
    guest_memfd: bool  # KVM_CAP_GUEST_MEMFD (234)
    guest_memfd_flags: GuestMemfdFlag  # KVM_CAP_GUEST_MEMFD_FLAGS (244)
    vm_types: frozenset[VmType]  # KVM_CAP_VM_TYPES (235)
    pre_fault: bool  # KVM_CAP_PRE_FAULT_MEMORY (236)
    hypercalls: int  # KVM_CAP_EXIT_HYPERCALL (201), a mask of 1 << hypercall number
    irqchip: bool  # KVM_CAP_IRQCHIP (0)
    pit2: bool  # KVM_CAP_PIT2 (33)
    irqfd: bool  # KVM_CAP_IRQFD (32)
    ioeventfd: bool  # KVM_CAP_IOEVENTFD (36)
    immediate_exit: bool  # KVM_CAP_IMMEDIATE_EXIT (136)
    sync_regs: int  # KVM_CAP_SYNC_REGS (74), a mask
    coalesced_pio: bool  # KVM_CAP_COALESCED_PIO (162)
    binary_stats: bool  # KVM_CAP_BINARY_STATS_FD (203)
    dirty_log_ring: int  # KVM_CAP_DIRTY_LOG_RING (192), the largest ring in bytes
    disable_exits: int  # KVM_CAP_X86_DISABLE_EXITS (143), a mask
    user_space_msr: int  # KVM_CAP_X86_USER_SPACE_MSR (188), a mask
    physical_address_bits: int  # CPUID 0x80000008 EAX[7:0] of KVM_GET_SUPPORTED_CPUID
    file_attributes: MemoryAttribute = MemoryAttribute(0)
    """KVM_CAP_GUEST_MEMFD_MEMORY_ATTRIBUTES: those of KVM_SET_MEMORY_ATTRIBUTES2, in place.

    Its number differs between postings, so that KVM is asked by the ioctl itself.
    """
