"""Interrupts of a VM: in-kernel controllers and timer, lines, MSIs, irqfds, ioeventfds, routing."""

from __future__ import annotations

from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import call, new
from pyvmm.hosts.kvm.ownership import FdOwner


class VmInterrupts(FdOwner):
    """The part of a VM that deals with interrupts. All methods raise `KvmError`."""

    def create_irqchip(self) -> None:
        """In-kernel PIC, I/O APIC and local APICs; before the first vCPU (api.rst 4.24)."""
        call(ioctls.CREATE_IRQCHIP, self.fd)

    def create_pit(self) -> None:
        """In-kernel 8254; after `create_irqchip` (KVM_CREATE_PIT2, api.rst 4.71)."""
        call(ioctls.CREATE_PIT2, self.fd, new("struct kvm_pit_config *"))

    def set_irq_line(self, gsi: int, level: bool) -> None:
        """Raise or lower an interrupt line of the in-kernel controllers (api.rst 4.25)."""
        raw = new("struct kvm_irq_level *", {"irq": gsi, "level": int(level)})
        call(ioctls.IRQ_LINE, self.fd, raw, f"gsi={gsi} level={int(level)}")
