# SPDX-License-Identifier: MIT
"""Error for a refused KVM ioctl, with a remedy where one is known."""

from __future__ import annotations

import errno
import os

from pyvmm.errors import SystemCallError
from pyvmm.hosts.kvm.ioctls import FdKind

_REMEDIES = {
    ("KVM_CREATE_VM", errno.EINVAL): "choose a VM type that `pyvmm doctor` lists",
    ("KVM_CREATE_VM", errno.ENOMEM): "free memory, or end other virtual machines",
    ("KVM_CREATE_VCPU", errno.EEXIST): "each vCPU needs an index of its own",
    ("KVM_CREATE_VCPU", errno.EINVAL): "use fewer vCPUs (`pyvmm doctor` tells the most)",
    ("KVM_CREATE_IRQCHIP", errno.EEXIST): "create the interrupt controllers once",
    ("KVM_CREATE_IRQCHIP", errno.EINVAL): "create them before the first vCPU",
    ("KVM_CREATE_PIT2", errno.ENOENT): "create the interrupt controllers first",
    ("KVM_CREATE_PIT2", errno.EEXIST): "create the timer once",
    ("KVM_SET_USER_MEMORY_REGION", errno.EEXIST): "the range overlaps another memslot",
    ("KVM_SET_USER_MEMORY_REGION2", errno.EEXIST): "the range overlaps another memslot or binding",
    ("KVM_SET_USER_MEMORY_REGION2", errno.EINVAL): (
        "check page alignment, the range within the guest_memfd, and that a guest_memfd slot is "
        "deleted before it is changed"
    ),
    ("KVM_CREATE_GUEST_MEMFD", errno.EINVAL): (
        "use a size that is a positive multiple of the page size, and flags that `pyvmm doctor` "
        "lists"
    ),
    ("KVM_PRE_FAULT_MEMORY", errno.EOPNOTSUPP): (
        "it takes two-dimensional page tables (EPT or NPT): use such a host, or the lab"
    ),
    ("KVM_RUN", errno.EAGAIN): (
        "KVM cannot start a thread of its own: raise the limit of processes and threads (ulimit -u)"
    ),
    ("KVM_GET_SUPPORTED_CPUID", errno.E2BIG): "offer more entries",
    ("KVM_IRQFD", errno.EBUSY): "an eventfd can be assigned to one interrupt once",
    ("KVM_IOEVENTFD", errno.EEXIST): "another ioeventfd already answers this address",
}

_GENERAL_REMEDIES = {
    errno.EBADF: "it has been closed",
    errno.ENOMEM: "free memory, or give the guest less",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "the whole system is out of file descriptors",
    errno.ENOTTY: "this kernel does not have it; see `pyvmm doctor`",
    errno.EIO: "use the KVM objects only in the process that created them",
}


class KvmError(SystemCallError):
    """A KVM ioctl failed: `ioctl` by name, on `target` ("VM fd 7"), with `arguments` rendered.

    `errno` is 0 where an ioctl did a part of its work and stopped without saying why.
    """

    def __init__(
        self, ioctl: str, target: str, arguments: str, number: int, *, remedy: str | None = None
    ) -> None:
        if remedy is None:
            remedy = _REMEDIES.get((ioctl, number)) or _GENERAL_REMEDIES.get(number, "")
        name = errno.errorcode.get(number, f"errno {number}")
        cause = f"{name} ({os.strerror(number)})" if number else "KVM does not support it"
        super().__init__(f"issue {ioctl}({arguments}) on {target}", number, cause, remedy)
        self.ioctl = ioctl
        self.target = target
        self.arguments = arguments

    @classmethod
    def of(cls, ioctl: str, kind: FdKind, fd: int, arguments: str, number: int) -> KvmError:
        """The error of an ioctl on one of our fds; -1 is one that was closed."""
        target = f"{kind.value} fd {fd}" if fd >= 0 else f"closed {kind.value}"
        return cls(ioctl, target, arguments, number)
