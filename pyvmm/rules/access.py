# SPDX-License-Identifier: MIT
"""Outcome of an access: the guest's, by KVM's page fault handling, and the host's, by a mapping.

Sources: ``kvm_mmu_page_fault``, ``kvm_mmu_faultin_pfn`` and what they call, in
arch/x86/kvm/mmu/mmu.c; ``kvm_gmem_get_pfn``, ``kvm_gmem_fault_user_mapping``. One access lies
within one page.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pyvmm.rules.abi import (
    EHWPOISON,
    GUEST_MEMFD_FLAG_INIT_SHARED,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_READONLY,
)
from pyvmm.rules.memslots import Slot, is_guest_memfd_only
from pyvmm.rules.profile import PrivateBy


@dataclass(frozen=True, slots=True)
class Bound:
    """Binding of a slot with KVM_MEM_GUEST_MEMFD.

    `offset` is the file offset, in bytes, of the slot's first byte; `flags` those that the file was
    created with. `open` is whether the file is still there: a slot outlives its file in mainline.
    `poisoned`: the page accessed has a memory error.
    """

    offset: int
    flags: int
    open: bool
    poisoned: bool = False


@dataclass(frozen=True, slots=True)
class GuestAccess:
    """A guest's access to the page at `gpa`.

    `attribute_private`: the page's KVM_MEMORY_ATTRIBUTE_PRIVATE. `claims_private`: what the guest's
    own page tables say, where `private_by` lets the guest say it. `slot` is the memslot that covers
    the page; `bound` its guest_memfd; `host_mapped` whether anything is mapped at its host address.
    """

    gpa: int
    write: bool
    private_by: PrivateBy
    attribute_private: bool
    slot: Slot | None
    bound: Bound | None = None
    claims_private: bool = False
    host_mapped: bool = True

    @property
    def is_private(self) -> bool:
        """True if KVM takes it for a private access."""
        if self.private_by is PrivateBy.ATTRIBUTES:
            return self.attribute_private
        return self.private_by is PrivateBy.GUEST and self.claims_private


@dataclass(frozen=True, slots=True)
class ServedShared:
    """Memory at this host virtual address serves it."""

    hva: int


@dataclass(frozen=True, slots=True)
class ServedByGuestMemfd:
    """The guest_memfd's page at this file offset, in bytes, serves it."""

    offset: int


@dataclass(frozen=True, slots=True)
class MemoryFault:
    """KVM_RUN fails with `errno` and KVM_EXIT_MEMORY_FAULT for the page at `gpa`."""

    gpa: int
    private: bool
    errno: int
    rule: str


@dataclass(frozen=True, slots=True)
class PlainFault:
    """KVM_RUN fails with `errno`; its exit reason is stale."""

    errno: int
    rule: str


class Mmio(enum.Enum):
    """KVM emulates the instruction and asks user space (KVM_EXIT_MMIO)."""

    NO_SLOT = "no memslot is there"
    READ_ONLY = "the memslot is read-only and the access a write"


AccessOutcome: TypeAlias = ServedShared | ServedByGuestMemfd | MemoryFault | PlainFault | Mmio


FAULTS: Mapping[str, tuple[str, str]] = {
    "access-mismatch": (
        "the access and the page's attribute differ: one is private, the other shared",
        "kvm_mmu_faultin_pfn",
    ),
    "access-private-no-slot": (
        "the page is private and has no memslot: private memory is never emulated",
        "kvm_handle_noslot_fault",
    ),
    "access-no-private-side": (
        "the page is private, and its memslot has no guest_memfd",
        "kvm_mmu_faultin_pfn_gmem",
    ),
    "access-file-closed": (
        "the memslot's guest_memfd has gone, and its memory with it",
        "kvm_gmem_get_pfn",
    ),
    "access-poisoned": ("the page has a memory error", "__kvm_gmem_get_pfn"),
    "access-host-unmapped": (
        "nothing is mapped at the memslot's address in the process",
        "kvm_handle_error_pfn",
    ),
}
"""Rules by which an access fails: the cause in a line, and the place in the kernel."""


def guest_access(access: GuestAccess) -> AccessOutcome:
    """Decide the outcome of a guest's access, as ``kvm_mmu_faultin_pfn`` does."""
    private = access.is_private
    if private != access.attribute_private:
        # kvm_mmu_faultin_pfn: the attributes disagree with the access.
        return MemoryFault(access.gpa, private, errno.EFAULT, "access-mismatch")
    slot = access.slot
    if slot is None:
        if private:  # kvm_handle_noslot_fault: private memory is never emulated
            return MemoryFault(access.gpa, private, errno.EFAULT, "access-private-no-slot")
        return Mmio.NO_SLOT
    bound = access.bound if slot.flags & KVM_MEM_GUEST_MEMFD else None
    if private or (bound is not None and is_guest_memfd_only(bound.flags)):
        if bound is None:  # kvm_mmu_faultin_pfn_gmem: !kvm_slot_has_gmem
            return MemoryFault(access.gpa, private, errno.EFAULT, "access-no-private-side")
        if not bound.open:  # kvm_gmem_get_pfn: kvm_gmem_get_file gives NULL
            return MemoryFault(access.gpa, private, errno.EFAULT, "access-file-closed")
        if bound.poisoned:  # __kvm_gmem_get_pfn: folio_test_hwpoison
            return MemoryFault(access.gpa, private, EHWPOISON, "access-poisoned")
        return ServedByGuestMemfd(bound.offset + access.gpa - slot.gpa)
    if access.write and slot.flags & KVM_MEM_READONLY:
        return Mmio.READ_ONLY  # kvm_handle_error_pfn: KVM_PFN_ERR_RO_FAULT
    if not access.host_mapped:  # kvm_handle_error_pfn; no memory fault is prepared
        return PlainFault(errno.EFAULT, "access-host-unmapped")
    return ServedShared(slot.hva + access.gpa - slot.gpa)


@dataclass(frozen=True, slots=True)
class HostAccess:
    """The host touches its mapping of a guest_memfd at file offset `offset`, in bytes.

    `poisoned`: the page there has a memory error. `private`: its attribute where the file keeps
    them (`rules.in_place`); None where its flags decide for all pages.
    """

    offset: int
    file_size: int
    flags: int
    poisoned: bool = False
    private: bool | None = None


class BusError(enum.Enum):
    """SIGBUS, and why."""

    BEYOND_END = "beyond the end of the file"
    PRIVATE = "the file's memory is private: created without GUEST_MEMFD_FLAG_INIT_SHARED"
    CONVERTED = "the page is private by the file's attributes"
    POISONED = "the page has a memory error"


def host_access(access: HostAccess) -> ServedByGuestMemfd | BusError:
    """Decide the outcome of a host's access (``kvm_gmem_fault_user_mapping``, ``__do_fault``)."""
    if access.offset >= access.file_size:
        return BusError.BEYOND_END
    if access.private:
        return BusError.CONVERTED
    if access.private is None and not access.flags & GUEST_MEMFD_FLAG_INIT_SHARED:
        return BusError.PRIVATE
    if access.poisoned:  # __do_fault: PageHWPoison; where it was mapped before, do_swap_page
        return BusError.POISONED
    return ServedByGuestMemfd(access.offset)
