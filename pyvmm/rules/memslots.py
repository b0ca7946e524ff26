# SPDX-License-Identifier: MIT
"""KVM_SET_USER_MEMORY_REGION2: create, delete, move, re-flag (api.rst 4.140).

Sources: ``kvm_vm_ioctl_set_memory_region``, ``kvm_set_memory_region``,
``kvm_gmem_prepare_memory_region`` and ``kvm_gmem_commit_memory_region`` (until 6.18 these two were
``kvm_gmem_bind``). The order of the rules is the kernel's. GPAs, host addresses, file offsets and
sizes are in bytes.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Hashable
from dataclasses import dataclass

from pyvmm.rules.abi import (
    ADDRESS_END,
    GUEST_MEMFD_FLAG_MMAP,
    KVM_MEM_GUEST_MEMFD,
    KVM_MEM_LOG_DIRTY_PAGES,
    KVM_MEM_MAX_NR_PAGES,
    KVM_MEM_READONLY,
    KVM_USER_MEM_SLOTS,
    PAGE_SIZE,
    USER_ADDRESS_END,
    is_page_aligned,
)
from pyvmm.rules.creation import supported_flags
from pyvmm.rules.profile import Profile
from pyvmm.rules.rule import Refusal, Rule, judge


class Change(enum.Enum):
    """Change that an accepted request makes (``enum kvm_mr_change``)."""

    CREATE = "create"
    DELETE = "delete"
    MOVE = "move"
    FLAGS_ONLY = "re-flag"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Slot:
    """A memslot as it is: number, GPA, size, host address, flags."""

    slot: int
    gpa: int
    size: int
    hva: int
    flags: int = 0


@dataclass(frozen=True, slots=True)
class GuestMemfdFile:
    """An open guest_memfd as binding sees it.

    `vm` identifies the VM that the file belongs to, None where it has none (mainline's files always
    have one); `bound` are the ranges of the file that slots are bound to, as (start, end).
    """

    vm: Hashable
    size: int
    flags: int = 0
    bound: tuple[tuple[int, int], ...] = ()


class NoGuestMemfd(enum.Enum):
    """A descriptor that is no guest_memfd."""

    NOT_OPEN = "not open"
    OTHER_FILE = "another kind of file"


@dataclass(frozen=True, slots=True)
class SetRegion:
    """``struct kvm_userspace_memory_region2``, and what it meets.

    `slot` has the address space in its upper 16 bits. `descriptor` is what the guest_memfd field
    refers to, looked at only with KVM_MEM_GUEST_MEMFD. `vm` identifies the VM, `slots` are those
    of its address space.
    """

    slot: int
    gpa: int
    size: int
    hva: int
    flags: int = 0
    offset: int = 0
    descriptor: GuestMemfdFile | NoGuestMemfd = NoGuestMemfd.NOT_OPEN
    vm: Hashable = None
    private_vm: bool = False
    slots: tuple[Slot, ...] = ()

    @property
    def old(self) -> Slot | None:
        """The slot of this number as it is."""
        for slot in self.slots:
            if slot.slot == self.slot:
                return slot
        return None

    @property
    def is_new(self) -> bool:
        """True if this would create a slot."""
        return self.size > 0 and self.old is None

    @property
    def binds(self) -> bool:
        """True if this would bind a guest_memfd."""
        return self.is_new and bool(self.flags & KVM_MEM_GUEST_MEMFD)

    @property
    def changed(self) -> Slot | None:
        """The slot that this would change (not create, not delete)."""
        return self.old if self.size else None


def _valid_flags(r: SetRegion, profile: Profile) -> int:
    if r.flags & KVM_MEM_GUEST_MEMFD and (r.private_vm or profile.default_vm_binds):
        return KVM_MEM_GUEST_MEMFD
    return KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY


def _alters(r: SetRegion) -> bool:
    old = r.changed
    fixed = KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD
    return old is not None and (
        r.hva != old.hva or r.size != old.size or bool((r.flags ^ old.flags) & fixed)
    )


def _overlaps_a_slot(r: SetRegion) -> bool:
    return any(
        slot.slot != r.slot and r.gpa < slot.gpa + slot.size and slot.gpa < r.gpa + r.size
        for slot in r.slots
    )


def _is_placed(r: SetRegion) -> bool:
    """Tell whether the request puts a slot where none of this number was."""
    return r.is_new or (r.changed is not None and r.changed.gpa != r.gpa)


def _file(r: SetRegion) -> GuestMemfdFile | None:
    return r.descriptor if r.binds and isinstance(r.descriptor, GuestMemfdFile) else None


def _of_another_vm(r: SetRegion) -> bool:
    file = _file(r)
    return file is not None and file.vm != r.vm


def _beyond_the_file(r: SetRegion) -> bool:
    # The kernel's sum wraps, which is why bind-overflow comes first.
    file = _file(r)
    return file is not None and (r.offset + r.size) % ADDRESS_END > file.size


def _bound_twice(r: SetRegion) -> bool:
    file = _file(r)
    return file is not None and any(
        r.offset < end and start < r.offset + r.size for start, end in file.bound
    )


def _has_other_flags(r: SetRegion, profile: Profile) -> bool:
    file = _file(r)
    return file is not None and bool(file.flags & ~supported_flags(r.private_vm, profile))


REQUEST_RULES: tuple[Rule[SetRegion], ...] = (
    Rule(
        "slot-number",
        "no such slot number",
        "kvm_vm_ioctl_set_memory_region",
        errno.EINVAL,
        lambda r, _: r.slot & 0xFFFF >= KVM_USER_MEM_SLOTS,
    ),
    Rule(
        "slot-flags",
        "a flag that does not exist or does not go with the others",
        "check_memory_region_flags",
        errno.EINVAL,
        lambda r, profile: bool(r.flags & ~_valid_flags(r, profile)),
    ),
    Rule(
        "slot-size",
        "the size is no multiple of a page",
        "kvm_set_memory_region",
        errno.EINVAL,
        lambda r, _: not is_page_aligned(r.size),
    ),
    Rule(
        "slot-gpa",
        "the guest-physical address is no multiple of a page",
        "kvm_set_memory_region",
        errno.EINVAL,
        lambda r, _: not is_page_aligned(r.gpa),
    ),
    Rule(
        "slot-hva",
        "the host address is no multiple of a page",
        "kvm_set_memory_region",
        errno.EINVAL,
        lambda r, _: not is_page_aligned(r.hva),
    ),
    Rule(
        "slot-hva-range",
        "the host range is no user memory",
        "kvm_set_memory_region: access_ok",
        errno.EINVAL,
        lambda r, _: r.hva + r.size > USER_ADDRESS_END,
    ),
    Rule(
        "bind-alignment",
        "the file offset is no multiple of a page",
        "kvm_set_memory_region",
        errno.EINVAL,
        lambda r, _: bool(r.flags & KVM_MEM_GUEST_MEMFD) and not is_page_aligned(r.offset),
    ),
    Rule(
        "bind-overflow",
        "the file range ends beyond 64 bits",
        "kvm_set_memory_region",
        errno.EINVAL,
        lambda r, _: bool(r.flags & KVM_MEM_GUEST_MEMFD) and r.offset + r.size >= ADDRESS_END,
    ),
    Rule(
        "slot-address-space",
        "no such address space",
        "kvm_set_memory_region",
        errno.EINVAL,
        lambda r, profile: r.slot >> 16 >= profile.address_spaces,
    ),
    Rule(
        "slot-gpa-overflow",
        "the guest-physical range ends beyond 64 bits",
        "kvm_set_memory_region",
        errno.EINVAL,
        lambda r, _: r.gpa + r.size >= ADDRESS_END,
    ),
    Rule(
        "slot-pages",
        "more pages than a slot can have",
        "kvm_set_memory_region: KVM_MEM_MAX_NR_PAGES",
        errno.EINVAL,
        lambda r, _: r.size // PAGE_SIZE > KVM_MEM_MAX_NR_PAGES,
    ),
)
"""Rules of the request alone."""

SLOT_RULES: tuple[Rule[SetRegion], ...] = (
    Rule(
        "delete-nothing",
        "no slot of this number to delete",
        "kvm_set_memory_region",
        errno.EINVAL,
        lambda r, _: r.size == 0 and r.old is None,
    ),
    Rule(
        "change-guest-memfd",
        "a slot cannot become or stay a guest_memfd's: delete it and create it again",
        "kvm_set_memory_region: private memslots are immutable",
        errno.EINVAL,
        lambda r, _: r.changed is not None and bool(r.flags & KVM_MEM_GUEST_MEMFD),
    ),
    Rule(
        "change-fixed",
        "size, host address and these flags of a slot are fixed",
        "kvm_set_memory_region",
        errno.EINVAL,
        lambda r, _: _alters(r),
    ),
    Rule(
        "slot-overlap",
        "another slot has guest-physical addresses of this range",
        "kvm_set_memory_region: kvm_check_memslot_overlap",
        errno.EEXIST,
        lambda r, _: _is_placed(r) and _overlaps_a_slot(r),
    ),
)
"""Rules of a request against the VM's slots."""

BIND_RULES: tuple[Rule[SetRegion], ...] = (
    Rule(
        "bind-descriptor",
        "the descriptor is not open",
        "kvm_gmem_prepare_memory_region: fget",
        lambda profile: profile.no_such_descriptor,
        lambda r, _: r.binds and r.descriptor is NoGuestMemfd.NOT_OPEN,
    ),
    Rule(
        "bind-kind",
        "the descriptor is no guest_memfd",
        "kvm_gmem_prepare_memory_region",
        errno.EINVAL,
        lambda r, _: r.binds and r.descriptor is NoGuestMemfd.OTHER_FILE,
    ),
    Rule(
        "bind-vm",
        "the guest_memfd belongs to another VM",
        "kvm_gmem_prepare_memory_region; api.rst 4.140: created on the current VM",
        errno.EINVAL,
        lambda r, _: _of_another_vm(r),
    ),
    Rule(
        "bind-range",
        "the range ends beyond the file",
        "kvm_gmem_prepare_memory_region",
        errno.EINVAL,
        lambda r, _: _beyond_the_file(r),
    ),
    Rule(
        "slot-gpa-width",
        "the range ends beyond the guest's physical address width",
        "kvm_arch_prepare_memory_region: kvm_mmu_max_gfn",
        errno.EINVAL,
        lambda r, profile: _is_placed(r) and r.gpa + r.size > 1 << profile.physical_address_bits,
    ),
    Rule(
        "bind-twice",
        "a slot is bound to a part of the file's range already",
        "kvm_gmem_commit_memory_region; api.rst 4.142: at most one mapping per page",
        lambda profile: profile.bound_twice,
        lambda r, _: _bound_twice(r),
    ),
)
"""Rules of what is bound and where it goes."""

FLAGS_AT_BINDING: tuple[Rule[SetRegion], ...] = (
    Rule(
        "bind-flags",
        "the file has flags that guest_memfds of this VM's type cannot have",
        "no kernel: kvm_gmem_create judges them by kvm_gmem_get_supported_flags, for the file's VM",
        errno.EINVAL,
        _has_other_flags,
    ),
)
"""Rules that a binding needs where files are created for no VM; no part of `SET_REGION`."""

SET_REGION = REQUEST_RULES + SLOT_RULES + BIND_RULES
"""All of them, in the kernel's order."""


def set_region(request: SetRegion, profile: Profile) -> Refusal | Change:
    """Return the change that the ioctl makes, or its refusal."""
    refusal = judge(SET_REGION, request, profile)
    return refusal if refusal is not None else change_of(request)


def change_of(request: SetRegion) -> Change:
    """Return the change that a request makes which nothing refuses."""
    old = request.old
    if request.size == 0:
        return Change.DELETE
    if old is None:
        return Change.CREATE
    if request.gpa != old.gpa:
        return Change.MOVE
    return Change.FLAGS_ONLY if request.flags != old.flags else Change.NOTHING


def is_guest_memfd_only(file_flags: int) -> bool:
    """Tell whether a slot bound to a file of these flags is served from it for shared accesses too.

    ``kvm_memslot_is_gmem_only``: every file that can be mapped (api.rst 4.142).
    """
    return bool(file_flags & GUEST_MEMFD_FLAG_MMAP)
