# SPDX-License-Identifier: MIT
"""Resetting what KVM has no reset for: by copying the state of a newborn one.

KVM resets a vCPU when it makes it and has no call that does it again. So a second VM is made for a
moment, with a vCPU of the same number, and what that one is like is what the first one becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyvmm.hosts.kvm.constants import Cap
from pyvmm.hosts.kvm.errors import KvmError
from pyvmm.hosts.kvm.interrupts import Irqchip

if TYPE_CHECKING:
    from pyvmm.hosts.kvm.vcpu import Vcpu
    from pyvmm.hosts.kvm.vm import Vm

_LEGACY_XSAVE = 4096


@dataclass(frozen=True, slots=True)
class Newborns:
    """Means of making another VM like this one, and the MSRs of its vCPUs."""

    create_vm: Callable[[], Vm]
    msr_indices: Callable[[], tuple[int, ...]]

    def reset_vcpu(self, vcpu: Vcpu, *, has_apic: bool) -> None:
        """Give `vcpu` all the state of a newborn one, but CPUID; on its thread.

        Raises `KvmError`.
        """
        with self.create_vm() as vm:
            if has_apic:
                vm.create_irqchip()
            with vm.create_vcpu(vcpu.index) as newborn:
                newborn.set_cpuid(vcpu.get_cpuid())
                size = vm.check_extension(Cap.XSAVE2) or _LEGACY_XSAVE
                vcpu.set_sregs(newborn.get_sregs())
                vcpu.set_regs(newborn.get_regs())
                vcpu.set_xcrs(newborn.get_xcrs())
                vcpu.set_xsave(newborn.get_xsave(size))
                _copy_msrs(newborn, vcpu, self.msr_indices())
                if has_apic:
                    vcpu.set_lapic(newborn.get_lapic())
                vcpu.set_debugregs(newborn.get_debugregs())
                vcpu.set_events(newborn.get_events())
                vcpu.set_mp_state(newborn.get_mp_state())

    def reset_controllers(self, vm: Vm, *, timer: bool) -> None:
        """Give `vm`'s controllers the state of newborn ones. Raises `KvmError`."""
        with self.create_vm() as newborn:
            newborn.create_irqchip()
            for chip in Irqchip:
                vm.set_irqchip(chip, newborn.get_irqchip(chip))
            if timer:
                newborn.create_pit()
                vm.set_pit(newborn.get_pit())


def _copy_msrs(newborn: Vcpu, vcpu: Vcpu, indices: Iterable[int]) -> None:
    """Those that differ: some can be read and not be set, and they do not change either."""
    for index in indices:
        try:
            (fresh,) = newborn.get_msrs((index,)).values()
            (used,) = vcpu.get_msrs((index,)).values()
        except KvmError:
            continue  # KVM lists some that this guest's CPUID does not have.
        if fresh != used:
            vcpu.set_msrs({index: fresh})
