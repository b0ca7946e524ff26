# SPDX-License-Identifier: MIT
"""KVM_CREATE_GUEST_MEMFD (api.rst 4.142; ``kvm_gmem_create``)."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from pyvmm.rules.abi import FILE_OFFSET_END, GUEST_MEMFD_FLAG_INIT_SHARED, is_page_aligned
from pyvmm.rules.profile import Profile
from pyvmm.rules.rule import Refusal, Rule, judge


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
