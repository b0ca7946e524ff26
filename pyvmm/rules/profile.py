# SPDX-License-Identifier: MIT
"""Differences between kernels: behaviours by name, never versions.

A `Profile` says how one kernel behaves. What a host's KVM_CHECK_EXTENSION tells decides most of
it; the rest was measured or read in the source.
"""

from __future__ import annotations

import enum
import errno
from dataclasses import dataclass

from pyvmm.rules.abi import (
    GUEST_MEMFD_FLAG_INIT_SHARED,
    GUEST_MEMFD_FLAG_MMAP,
    KVM_MEMORY_ATTRIBUTE_PRIVATE,
)


class PrivateBy(enum.Enum):
    """Authority that decides whether a guest access is a private one."""

    NOBODY = "the VM has no private memory"
    ATTRIBUTES = "the page's attributes, as on KVM_X86_SW_PROTECTED_VM"
    GUEST = "the guest, by its page tables, as on SNP and TDX"


@dataclass(frozen=True, slots=True)
class Profile:
    """Behaviour of one kernel.

    `guest_memfd_flags`: those of KVM_CREATE_GUEST_MEMFD that exist at all (api.rst 4.142).
    `default_vm_binds`: whether a VM without private memory takes KVM_MEM_GUEST_MEMFD.
    `attributes`: what KVM_SET_MEMORY_ATTRIBUTES knows; None where there is no such ioctl.
    `file_attributes`: what KVM_SET_MEMORY_ATTRIBUTES2 of a guest_memfd knows, as posted; None where
    there is no such ioctl. With one of them the other is 0: a module's parameter chooses.
    `bound_twice`: the errno of binding a range of a file that is bound already.
    `no_such_descriptor`: the errno of binding a descriptor that is not open.
    `physical_address_bits`: the width of guest-physical addresses.
    `address_spaces`: how many a VM has (2 with system management mode).
    """

    name: str
    guest_memfd_flags: int = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED
    default_vm_binds: bool = True
    attributes: int | None = KVM_MEMORY_ATTRIBUTE_PRIVATE
    file_attributes: int | None = None
    bound_twice: int = errno.EEXIST
    no_such_descriptor: int = errno.EBADF
    physical_address_bits: int = 52
    address_spaces: int = 1


MAINLINE = Profile("mainline")
"""As Linux 7.3's source reads: flags, attributes, EEXIST for a range bound twice."""

EARLIER = Profile("earlier mainline", bound_twice=errno.EINVAL)
"""As 6.18 answers where it has private memory: a range bound twice is EINVAL."""

SHARED_ONLY = Profile("no private memory", attributes=None, bound_twice=errno.EINVAL)
"""As 6.18 answers where KVM has no VM type with private memory."""

FIRST_MERGED = Profile(
    "first merged", guest_memfd_flags=0, default_vm_binds=False, bound_twice=errno.EINVAL
)
"""As 6.8 to 6.12: no flags; only VMs with private memory bind a guest_memfd."""

UNDER_REVIEW = Profile(
    "under review (v11)",
    guest_memfd_flags=0,
    default_vm_binds=False,
    bound_twice=errno.EINVAL,
    no_such_descriptor=errno.EINVAL,
)
"""The patch that the mail answers: ``fget`` failing gives EINVAL."""

IN_PLACE = Profile(
    "in place (as posted)", attributes=0, file_attributes=KVM_MEMORY_ATTRIBUTE_PRIVATE
)
"""Mainline with the series for conversion in place, and with gmem_in_place_conversion on."""

PROFILES = (MAINLINE, EARLIER, SHARED_ONLY, FIRST_MERGED, UNDER_REVIEW, IN_PLACE)
