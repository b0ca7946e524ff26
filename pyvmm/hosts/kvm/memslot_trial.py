# SPDX-License-Identifier: MIT
"""Memslots with flags that no release has: tried on a VM that nothing else is done with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import new
from pyvmm.hosts.kvm.calling import call
from pyvmm.rules.abi import PAGE_SIZE

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.vm import Vm


def try_memslot_flags(vm: Vm, hva: int, flags: int, bitmap: int) -> None:
    """Make a memslot of one page at `hva` with `flags`, whatever they are, and delete it again.

    `bitmap`, an HVA, is where KVM_MEM_USERFAULT has its bitmap's address as posted: behind the
    guest_memfd, in what is padding today. Raises `KvmError` where KVM refuses it.
    """
    fields = {
        "slot": 0,
        "flags": flags,
        "guest_phys_addr": PAGE_SIZE,
        "memory_size": PAGE_SIZE,
        "userspace_addr": hva,
    }
    raw = new("struct kvm_userspace_memory_region2 *", fields)
    raw.pad2[0] = bitmap
    call(ioctls.SET_USER_MEMORY_REGION2, vm, raw, f"slot=0 flags={flags:#x}")
    raw.memory_size = 0
    raw.flags = 0
    call(ioctls.SET_USER_MEMORY_REGION2, vm, raw, "slot=0 size=0")
