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
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.backing import RamBacking, choose_backing

LAYOUT = AddressMap.of(MEMORY)


def planned(code: bytes) -> BootPlan:
    """What to place where, and the entry state."""
    return plan_boot(code, LAYOUT, b"", None, name="benchmark")


@contextmanager
def guest(plan: BootPlan) -> Iterator[Vcpu]:
    """A vCPU ready to execute `plan`, from opening /dev/kvm on; all closed at the end."""
    with ExitStack() as stack:
        system = stack.enter_context(System())
        choice = choose_backing(system.capabilities())
        vm = stack.enter_context(system.create_vm())
        guest_memfd = None
        if choice.kind is RamBacking.GUEST_MEMFD:
            guest_memfd = stack.enter_context(vm.create_guest_memfd(MEMORY, choice.flags))
            ram: GuestMapping = stack.enter_context(guest_memfd.map())
        else:
            ram = stack.enter_context(system.map_anonymous(MEMORY))
        vm.set_memslot(Memslot(slot=0, gpa=0, size=MEMORY, hva=ram.hva, guest_memfd=guest_memfd))
        with ram.view() as view:
            for placement in plan.placements:
                view[placement.gpa : placement.gpa + len(placement.data)] = placement.data
        vcpu = stack.enter_context(vm.create_vcpu(0))
        vcpu.use_host_cpuid()
        apic_base = vcpu.get_sregs().apic_base
        vcpu.set_sregs(replace(plan.entry.sregs, apic_base=apic_base))
        vcpu.set_regs(plan.entry.regs)
        yield vcpu
