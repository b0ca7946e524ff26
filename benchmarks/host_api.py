# SPDX-License-Identifier: MIT
"""A guest through pyvmm's host API alone (`pyvmm.hosts`): no machine, no devices, no thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from benchmarks.guests import MEMORY
from pyvmm.boot.loader import plan_boot
from pyvmm.boot.plan import BootPlan
from pyvmm.hosts.interface import GuestMapping, Memslot, Vcpu
from pyvmm.hosts.kvm.system import System
from pyvmm.hosts.kvm.vm import Vm
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.backing import RamBacking, choose_backing

LAYOUT = AddressMap.of(MEMORY)


def planned(code: bytes) -> BootPlan:
    """What to place where, and the entry state."""
    return plan_boot(code, LAYOUT, b"", None, name="benchmark")


@contextmanager
def ram(system: System, vm: Vm, plan: BootPlan) -> Iterator[memoryview]:
    """All RAM of a VM, with what `plan` places in it."""
    with ExitStack() as stack:
        choice = choose_backing(system.capabilities())
        guest_memfd = None
        if choice.kind is RamBacking.GUEST_MEMFD:
            guest_memfd = stack.enter_context(vm.create_guest_memfd(MEMORY, choice.flags))
            mapping: GuestMapping = stack.enter_context(guest_memfd.map())
        else:
            mapping = stack.enter_context(system.map_anonymous(MEMORY))
        vm.set_memslot(Memslot(0, 0, MEMORY, mapping.hva, guest_memfd=guest_memfd))
        view = stack.enter_context(mapping.view())
        for placement in plan.placements:
            view[placement.gpa : placement.gpa + len(placement.data)] = placement.data
        yield view


@contextmanager
def guest(plan: BootPlan) -> Iterator[Vcpu]:
    """A vCPU ready to execute `plan`, from opening /dev/kvm on; all closed at the end."""
    with ExitStack() as stack:
        system = stack.enter_context(System())
        vm = stack.enter_context(system.create_vm())
        stack.enter_context(ram(system, vm, plan))
        vcpu = stack.enter_context(vm.create_vcpu(0))
        vcpu.use_host_cpuid()
        apic_base = vcpu.get_sregs().apic_base
        vcpu.set_sregs(replace(plan.entry.sregs, apic_base=apic_base))
        vcpu.set_regs(plan.entry.regs)
        yield vcpu
