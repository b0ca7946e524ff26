# SPDX-License-Identifier: MIT
"""KVM_CREATE_VM (api.rst 4.2), KVM_CREATE_GUEST_MEMFD (4.142; ``kvm_gmem_create``)."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pyvmm.rules.abi import (
    FILE_OFFSET_END,
    GUEST_MEMFD_FLAG_INIT_SHARED,
    KVM_X86_DEFAULT_VM,
    KVM_X86_SW_PROTECTED_VM,
    is_page_aligned,
)
from pyvmm.rules.profile import Profile
from pyvmm.rules.rule import Refusal, Rule, judge


@dataclass(frozen=True, slots=True)
class CreateVm:
    """A request for a VM of a type, one of the numbers that KVM_CAP_VM_TYPES has bits for."""

    vm_type: int


def vm_types(profile: Profile) -> frozenset[int]:
    """The types of VMs, of those without encryption, that a kernel has."""
    has_private = profile.attributes is not None
    return frozenset({KVM_X86_DEFAULT_VM, *([KVM_X86_SW_PROTECTED_VM] if has_private else [])})


CREATE_VM: tuple[Rule[CreateVm], ...] = (
    Rule(
        "vm-type",
        "this KVM has no VMs of this type",
        "kvm_arch_init_vm, kvm_is_vm_type_supported",
        errno.EINVAL,
        lambda r, profile: r.vm_type not in vm_types(profile),
    ),
)


def create_vm(request: CreateVm, profile: Profile) -> Refusal | None:
    """Return the kernel's refusal to make the VM; None where it makes it."""
    return judge(CREATE_VM, request, profile)


@dataclass(frozen=True, slots=True)
class CreateGuestMemfd:
    """A request for a file of `size` bytes, for a VM that has private memory or has none.

    ``reserved`` of the kernel's structure is not looked at, so it is no part of the request.
    """

    size: int
    flags: int
    private_vm: bool


def supported_flags(private_vm: bool, profile: Profile) -> int:
    """The flags that a VM may create a file with (``kvm_gmem_get_supported_flags``).

    Where files keep attributes, one of a VM with private memory may start shared, too (as posted).
    """
    if private_vm and not profile.file_attributes:
        return profile.guest_memfd_flags & ~GUEST_MEMFD_FLAG_INIT_SHARED
    return profile.guest_memfd_flags


CREATE_GUEST_MEMFD: tuple[Rule[CreateGuestMemfd], ...] = (
    Rule(
        "create-flags",
        "a flag that this VM's guest_memfds cannot have",
        "kvm_gmem_create, kvm_gmem_get_supported_flags",
        errno.EINVAL,
        lambda r, profile: bool(r.flags & ~supported_flags(r.private_vm, profile)),
    ),
    Rule(
        "create-size",
        "the size is zero, or negative as the kernel's signed file size",
        "kvm_gmem_create",
        errno.EINVAL,
        lambda r, _: not 0 < r.size < FILE_OFFSET_END,
    ),
    Rule(
        "create-alignment",
        "the size is no multiple of a page",
        "kvm_gmem_create",
        errno.EINVAL,
        lambda r, _: not is_page_aligned(r.size),
    ),
)


def create_guest_memfd(request: CreateGuestMemfd, profile: Profile) -> Refusal | None:
    """Return the kernel's refusal to create the file; None where it creates it."""
    return judge(CREATE_GUEST_MEMFD, request, profile)
