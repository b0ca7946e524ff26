# SPDX-License-Identifier: MIT
"""Numbers of the interface between kernel and user space that the rules speak of.

`pyvmm.hosts.capabilities` gives some of them names of a type; a test holds the two together.
"""

from __future__ import annotations

PAGE_SIZE = 4096
"""Bytes of a page: of the guest's first level of translation, and of the host's."""

IOAPIC_DEFAULT_BASE = 0xFEC0_0000
"""GPA of the in-kernel I/O APIC's registers (``IOAPIC_DEFAULT_BASE_ADDRESS``, KVM's ioapic.h)."""
APIC_DEFAULT_BASE = 0xFEE0_0000
"""GPA of a local APIC's registers after reset (SDM vol. 3A, 11.4.1)."""

KVM_HC_MAP_GPA_RANGE = 12
"""The hypercall that converts memory (Documentation/virt/kvm/x86/hypercalls.rst, 9)."""

GUEST_MEMFD_FLAG_MMAP = 1 << 0
GUEST_MEMFD_FLAG_INIT_SHARED = 1 << 1

KVM_MEM_LOG_DIRTY_PAGES = 1 << 0
KVM_MEM_READONLY = 1 << 1
KVM_MEM_GUEST_MEMFD = 1 << 2

KVM_MEMORY_ATTRIBUTE_PRIVATE = 1 << 3

KVM_USER_MEM_SLOTS = 32764
"""Memslots that user space may use in one address space (``include/linux/kvm_host.h``)."""
KVM_MEM_MAX_NR_PAGES = (1 << 31) - 1
"""The pages of one memslot, inclusive."""
USER_ADDRESS_END = (1 << 47) - PAGE_SIZE
"""The end of user space's addresses on x86-64 with four-level page tables (``access_ok``)."""

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02

FILE_OFFSET_END = 1 << 63
"""``loff_t`` is signed: offsets are below this; the largest file has one byte less."""
EHWPOISON = 133
"""A page has a memory error: Linux's number, which Python's errno has not got before 3.14."""
KVM_X86_DEFAULT_VM = 0
KVM_X86_SW_PROTECTED_VM = 1

ADDRESS_END = 1 << 64
"""The end of what a ``__u64`` holds."""


def is_page_aligned(value: int) -> bool:
    """Tell whether `value`, in bytes, is a multiple of a page."""
    return value % PAGE_SIZE == 0
