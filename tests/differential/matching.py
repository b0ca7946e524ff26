# SPDX-License-Identifier: MIT
"""Which behaviours a KVM host has: asked of it, never taken from a version."""

from __future__ import annotations

import errno

from pyvmm.errors import SystemCallError
from pyvmm.hosts.capabilities import MemoryAttribute, VmType
from pyvmm.hosts.interface import Memslot, MemslotFlag
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.rules.profile import Profile

PAGE = 4096
_CAP_MULTI_ADDRESS_SPACE = 118


def errno_of(vm: Vm, memslot: Memslot) -> int:
    """What KVM answers to a slot; 0 where it takes it."""
    try:
        vm.set_memslot(memslot)
    except SystemCallError as error:
        return error.errno
    return 0


def _physical_address_bits(vm: Vm) -> int:
    for bits in range(52, 31, -1):
        if not errno_of(vm, Memslot(1, (1 << bits) - PAGE, PAGE, 0)):
            vm.set_memslot(Memslot(1, 0, 0, 0))
            return bits
    raise AssertionError("no slot can be made")


def _default_vm_binds(system: System) -> bool:
    with system.create_vm() as vm, vm.create_guest_memfd(PAGE) as file:
        return not errno_of(vm, Memslot(1, 0, PAGE, 0, guest_memfd=file))


def profile_of(system: System) -> Profile:
    """The behaviours of this host."""
    offered = system.capabilities()
    private = VmType.SW_PROTECTED in offered.vm_types
    kind = VmType.SW_PROTECTED if private else VmType.DEFAULT
    with system.create_vm(kind) as vm, vm.create_guest_memfd(4 * PAGE) as file:
        vm.set_memslot(Memslot(1, 0, PAGE, 0, guest_memfd=file))
        return Profile(
            "asked of this host",
            guest_memfd_flags=int(offered.guest_memfd_flags),
            default_vm_binds=_default_vm_binds(system),
            attributes=_attributes(vm, offered.memory_attributes),
            bound_twice=errno_of(vm, Memslot(2, 1 << 20, PAGE, 0, guest_memfd=file)),
            no_such_descriptor=errno_of(vm, Memslot(2, 1 << 20, PAGE, 0, MemslotFlag.GUEST_MEMFD)),
            physical_address_bits=_physical_address_bits_of_new(system),
            address_spaces=max(1, vm.check_extension(_CAP_MULTI_ADDRESS_SPACE)),
        )


def _physical_address_bits_of_new(system: System) -> int:
    with system.create_vm() as vm:
        return _physical_address_bits(vm)


def _attributes(vm: Vm, offered: MemoryAttribute) -> int | None:
    """What can be set; None where there is no such ioctl."""
    try:
        vm.set_memory_attributes(0, PAGE, MemoryAttribute(0))
    except SystemCallError as error:
        assert error.errno == errno.ENOTTY
        return None
    return int(offered)
