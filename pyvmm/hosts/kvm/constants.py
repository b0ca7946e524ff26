# SPDX-License-Identifier: MIT
"""Numbers of the KVM ABI that are neither ioctls nor structures (api.rst)."""

from __future__ import annotations

import enum

API_VERSION = 12
"""Answer of KVM_GET_API_VERSION since 2007; any other value is another interface."""


class ExitReason(enum.IntEnum):
    """``kvm_run.exit_reason``, as far as x86 has them."""

    UNKNOWN = 0
    EXCEPTION = 1
    IO = 2
    HYPERCALL = 3
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    SET_TPR = 11
    TPR_ACCESS = 12
    NMI = 16
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24
    IOAPIC_EOI = 26
    HYPERV = 27
    X86_RDMSR = 29
    X86_WRMSR = 30
    DIRTY_RING_FULL = 31
    AP_RESET_HOLD = 32
    X86_BUS_LOCK = 33
    XEN = 34
    NOTIFY = 37
    MEMORY_FAULT = 39


EXIT_NAMES = {reason.value: reason.name for reason in ExitReason}
"""Names of exit reasons by number."""


class Cap(enum.IntEnum):
    """The KVM_CAP_* that this project decides on or enables; `extensions.KNOWN` has all of them."""

    IRQCHIP = 0
    SET_TSS_ADDR = 4
    NR_VCPUS = 9
    NR_MEMSLOTS = 10
    COALESCED_MMIO = 15
    IRQ_ROUTING = 25
    IRQFD = 32
    PIT2 = 33
    SET_BOOT_CPU_ID = 34
    IOEVENTFD = 36
    SET_IDENTITY_MAP_ADDR = 37
    TSC_CONTROL = 60
    MAX_VCPUS = 66
    TSC_DEADLINE_TIMER = 72
    SYNC_REGS = 74
    SIGNAL_MSI = 77
    READONLY_MEM = 81
    IRQFD_RESAMPLE = 82
    CHECK_EXTENSION_VM = 105
    SPLIT_IRQCHIP = 121
    IMMEDIATE_EXIT = 136
    X86_DISABLE_EXITS = 143
    NESTED_STATE = 157
    COALESCED_PIO = 162
    MANUAL_DIRTY_LOG_PROTECT2 = 168
    X86_USER_SPACE_MSR = 188
    X86_MSR_FILTER = 189
    DIRTY_LOG_RING = 192
    SREGS2 = 200
    EXIT_HYPERCALL = 201
    BINARY_STATS_FD = 203
    XSAVE2 = 208
    USER_MEMORY2 = 231
    MEMORY_FAULT_INFO = 232
    MEMORY_ATTRIBUTES = 233
    GUEST_MEMFD = 234
    VM_TYPES = 235
    PRE_FAULT_MEMORY = 236
    GUEST_MEMFD_FLAGS = 244
