# SPDX-License-Identifier: MIT
"""guest_memfds of no VM: KVM_CREATE_GUEST_MEMFD as an ioctl of /dev/kvm.

Mainline has it for VMs only. Where memslots pin their files, a file has a VM from its first binding
to its last unbinding (docs/lifetime.md, `memslot-pins-file`).
"""

from __future__ import annotations

import errno

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import GuestMemfdFlag
from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.guest_memfd import GuestMemfd
from pyvmm.hosts.kvm.ioctls import FdKind
from pyvmm.hosts.kvm.system import System
from pyvmm.rules.abi import PAGE_SIZE


def create_unowned(system: System, size: int, flags: GuestMemfdFlag) -> GuestMemfd:
    """A guest_memfd of `size` bytes, a multiple of a page; the caller owns it.

    Raises `KvmError`: with ENOTTY (EINVAL of some architectures) where only VMs create files.
    """
    raw = new("struct kvm_create_guest_memfd *", {"size": size, "flags": int(flags)})
    described = f"size={size} flags={int(flags):#x}"
    fd = call(ioctls.CREATE_GUEST_MEMFD, system, raw, described, kind=FdKind.SYSTEM)
    return GuestMemfd(fd, size, flags, system.recorder)


def has_unowned_files(system: System) -> bool:
    """Tell whether this KVM creates files for no VM: one is created, and closed again."""
    try:
        create_unowned(system, PAGE_SIZE, GuestMemfdFlag(0)).close()
    except SystemCallError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        return False
    return True
