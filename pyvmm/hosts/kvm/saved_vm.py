# SPDX-License-Identifier: MIT
"""Saving a VM's clock and in-kernel controllers, and restoring them."""

from __future__ import annotations

from pyvmm.errors import InternalError
from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.interrupts import Irqchip, VmInterrupts
from pyvmm.hosts.kvm.saved_values import KvmSavedVm
from pyvmm.hosts.saved_state import (
    Origin,
    SavedVm,
    require_same_controllers,
    require_same_origin,
)


def save(vm: VmInterrupts, origin: Origin, *, has_irqchip: bool, has_pit: bool) -> KvmSavedVm:
    """Read them, while no vCPU runs. Raises `KvmError`."""
    clock = new("struct kvm_clock_data *")
    call(ioctls.GET_CLOCK, vm, clock)
    return KvmSavedVm(
        origin,
        clock.clock,
        tuple(vm.get_irqchip(chip) for chip in Irqchip) if has_irqchip else (),
        vm.get_pit() if has_pit else None,
    )


def restore(
    vm: VmInterrupts, saved: SavedVm, origin: Origin, *, has_irqchip: bool, has_pit: bool
) -> None:
    """Set them: the clock, before any vCPU runs; the controllers; the timer, which ticks at once.

    The clock goes on from where it was, however long ago that is: what the guest measures does not
    jump (no KVM_CLOCK_REALTIME). The timer's present period begins anew (KVM keeps it in the
    host's time). Raises `HostLacksError` for a state of another origin, `UsageError` for one of a
    VM with other controllers, `KvmError`.
    """
    require_same_origin(saved.origin, origin)
    if not isinstance(saved, KvmSavedVm):
        raise InternalError("restore a VM", f"a {type(saved).__name__} is not KVM's")
    require_same_controllers("a VM", saved=bool(saved.irqchips), here=has_irqchip)
    require_same_controllers("a VM's timer", saved=saved.pit is not None, here=has_pit)
    if saved.clock is not None:
        clock = new("struct kvm_clock_data *", {"clock": saved.clock})
        call(ioctls.SET_CLOCK, vm, clock, f"clock={saved.clock}")
    for chip, state in zip(Irqchip, saved.irqchips, strict=False):
        vm.set_irqchip(chip, state)
    if saved.pit is not None:
        vm.set_pit(saved.pit)
