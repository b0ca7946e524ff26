# SPDX-License-Identifier: MIT
"""KVM_SET_MEMORY_ATTRIBUTES (api.rst 4.141; ``kvm_vm_ioctl_set_mem_attributes``)."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pyvmm.rules.abi import ADDRESS_END, KVM_MEMORY_ATTRIBUTE_PRIVATE, is_page_aligned
from pyvmm.rules.profile import Profile
from pyvmm.rules.rule import Refusal, Rule, judge


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """A request to give [gpa, gpa + size), bytes, these `attributes`.

    No memslot is needed there: attributes belong to addresses.
    """

    gpa: int
    size: int
    attributes: int
    private_vm: bool
    flags: int = 0


def supported_attributes(private_vm: bool, profile: Profile) -> int:
    """Return what a VM may set (``kvm_supported_mem_attributes``): 0 without private memory."""
    return (profile.attributes or 0) & KVM_MEMORY_ATTRIBUTE_PRIVATE if private_vm else 0


SET_ATTRIBUTES: tuple[Rule[SetAttributes], ...] = (
    Rule(
        "attributes-offered",
        "this kernel keeps no memory attributes",
        "api.rst 4.141: KVM_CAP_MEMORY_ATTRIBUTES",
        errno.ENOTTY,
        lambda _, profile: profile.attributes is None,
    ),
    Rule(
        "attributes-flags",
        "flags must be zero",
        "kvm_vm_ioctl_set_mem_attributes",
        errno.EINVAL,
        lambda r, _: r.flags != 0,
    ),
    Rule(
        "attributes-known",
        "an attribute that this VM's memory cannot have",
        "kvm_vm_ioctl_set_mem_attributes, kvm_supported_mem_attributes",
        errno.EINVAL,
        lambda r, profile: bool(r.attributes & ~supported_attributes(r.private_vm, profile)),
    ),
    Rule(
        "attributes-empty",
        "the range is empty",
        "kvm_vm_ioctl_set_mem_attributes",
        errno.EINVAL,
        lambda r, _: r.size == 0,
    ),
    Rule(
        "attributes-overflow",
        "the range ends beyond 64 bits",
        "kvm_vm_ioctl_set_mem_attributes",
        errno.EINVAL,
        lambda r, _: r.gpa + r.size >= ADDRESS_END,
    ),
    Rule(
        "attributes-alignment",
        "address or size is no multiple of a page",
        "kvm_vm_ioctl_set_mem_attributes",
        errno.EINVAL,
        lambda r, _: not (is_page_aligned(r.gpa) and is_page_aligned(r.size)),
    ),
)


def set_attributes(request: SetAttributes, profile: Profile) -> Refusal | None:
    """Return the kernel's refusal; None where the whole range has the attributes afterwards."""
    return judge(SET_ATTRIBUTES, request, profile)
