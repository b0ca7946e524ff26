# SPDX-License-Identifier: MIT
"""Interrupts of a VM: in-kernel controllers and timer, lines, MSIs, irqfds, ioeventfds, routing."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from pyvmm.errors import UsageError
from pyvmm.hosts.interrupts import DoorbellPlace, Msi
from pyvmm.hosts.kvm import ioctls
from pyvmm.hosts.kvm.binding import ffi, new
from pyvmm.hosts.kvm.calling import call
from pyvmm.hosts.kvm.ownership import FdOwner

_ROUTING_IRQCHIP = 1
_ROUTING_MSI = 2
_MSI_VALID_DEVID = 1
_IRQFD_DEASSIGN = 1
_IRQFD_RESAMPLE = 2
_IOEVENTFD_DATAMATCH = 1
_IOEVENTFD_PIO = 2
_IOEVENTFD_DEASSIGN = 4
_CHIP_SIZE = 512


class Irqchip(enum.IntEnum):
    """The in-kernel interrupt controllers (api.rst 4.26)."""

    PIC_MASTER = 0
    PIC_SLAVE = 1
    IOAPIC = 2


class IrqchipPin(NamedTuple):
    """GSI `gsi` is pin `pin` of `chip`."""

    gsi: int
    chip: Irqchip
    pin: int


class MsiRoute(NamedTuple):
    """GSI `gsi` sends `msi`."""

    gsi: int
    msi: Msi


GsiRoute: TypeAlias = IrqchipPin | MsiRoute


class VmInterrupts(FdOwner):
    """The part of a VM that deals with interrupts. All methods raise `KvmError`."""

    def create_irqchip(self) -> None:
        """In-kernel PIC, I/O APIC and local APICs; before the first vCPU (api.rst 4.24)."""
        call(ioctls.CREATE_IRQCHIP, self)

    def create_pit(self, *, speaker: bool = True) -> None:
        """In-kernel 8254; after `create_irqchip` (KVM_CREATE_PIT2, api.rst 4.71).

        `speaker`: port 0x61 is answered by the kernel as well, as a stub.
        """
        call(ioctls.CREATE_PIT2, self, new("struct kvm_pit_config *", {"flags": int(speaker)}))

    def set_irq_line(self, gsi: int, level: bool) -> None:
        """Raise or lower an interrupt line of the in-kernel controllers (api.rst 4.25)."""
        raw = new("struct kvm_irq_level *", {"irq": gsi, "level": int(level)})
        call(ioctls.IRQ_LINE, self, raw, f"gsi={gsi} level={int(level)}")

    def get_irqchip(self, chip: Irqchip) -> bytes:
        """The state of one controller, 512 bytes (KVM_GET_IRQCHIP, api.rst 4.26)."""
        raw = new("struct kvm_irqchip *", {"chip_id": int(chip)})
        call(ioctls.GET_IRQCHIP, self, raw, chip.name)
        return bytes(ffi.buffer(raw.chip.dummy))

    def set_irqchip(self, chip: Irqchip, state: bytes) -> None:
        """Replace it with one that `get_irqchip` gave (KVM_SET_IRQCHIP, api.rst 4.27).

        Raises `UsageError` unless `state` is 512 bytes.
        """
        if len(state) != _CHIP_SIZE:
            raise UsageError(f"set the state of {chip.name}", f"{len(state)} bytes are not 512")
        raw = new("struct kvm_irqchip *", {"chip_id": int(chip)})
        ffi.buffer(raw.chip.dummy)[:] = state
        call(ioctls.SET_IRQCHIP, self, raw, chip.name)

    def can_send_unmaskable(self) -> bool:
        """Tell whether an unmasked pin of the I/O APIC sends an NMI, SMI, INIT or start-up."""
        from pyvmm.hosts.kvm.sleeping import has_unmaskable_pin

        return has_unmaskable_pin(self.get_irqchip(Irqchip.IOAPIC))

    def get_pit(self) -> bytes:
        """The state of the 8254: ``struct kvm_pit_state2`` (KVM_GET_PIT2, api.rst 4.72)."""
        raw = new("struct kvm_pit_state2 *")
        call(ioctls.GET_PIT2, self, raw)
        return bytes(ffi.buffer(raw))

    def set_pit(self, state: bytes) -> None:
        """Replace it with one that `get_pit` gave (KVM_SET_PIT2, api.rst 4.73).

        Raises `UsageError` for a state of another length.
        """
        raw = new("struct kvm_pit_state2 *")
        if len(state) != ffi.sizeof(raw[0]):
            raise UsageError("set the state of the timer", f"{len(state)} bytes are not 112")
        ffi.buffer(raw)[:] = state
        call(ioctls.SET_PIT2, self, raw)

    def signal_msi(self, msi: Msi) -> bool:
        """Send `msi` now; False when the guest blocks it (KVM_SIGNAL_MSI, api.rst 4.70)."""
        fields = {
            "address_lo": msi.address & 0xFFFF_FFFF,
            "address_hi": msi.address >> 32,
            "data": msi.data,
            "flags": 0 if msi.devid is None else _MSI_VALID_DEVID,
            "devid": msi.devid or 0,
        }
        raw = new("struct kvm_msi *", fields)
        return call(ioctls.SIGNAL_MSI, self, raw, str(msi)) > 0

    def set_gsi_routing(self, routes: Sequence[GsiRoute]) -> None:
        """Replace the whole table of what each GSI raises (KVM_SET_GSI_ROUTING, api.rst 4.52)."""
        raw = new("struct kvm_irq_routing *", {"nr": len(routes), "entries": len(routes)})
        for number, route in enumerate(routes):
            entry = raw.entries[number]
            entry.gsi = route.gsi
            if isinstance(route, IrqchipPin):
                entry.type = _ROUTING_IRQCHIP
                entry.u.irqchip.irqchip, entry.u.irqchip.pin = int(route.chip), route.pin
                continue
            entry.type = _ROUTING_MSI
            msi, target = route.msi, entry.u.msi
            target.address_lo, target.address_hi = msi.address & 0xFFFF_FFFF, msi.address >> 32
            target.data = msi.data
            if msi.devid is not None:
                entry.flags, target.devid = _MSI_VALID_DEVID, msi.devid
        call(ioctls.SET_GSI_ROUTING, self, raw, f"{len(routes)} routes")

    def assign_irqfd(self, eventfd: int, gsi: int, resample: int | None = None) -> None:
        """Raise `gsi` whenever `eventfd` is signalled (KVM_IRQFD, api.rst 4.75).

        `resample`: an eventfd that KVM signals at the end of a level-triggered interrupt.
        """
        flags = 0 if resample is None else _IRQFD_RESAMPLE
        self._irqfd(eventfd, gsi, flags, resample or 0)

    def deassign_irqfd(self, eventfd: int, gsi: int) -> None:
        """Undo `assign_irqfd`. The kernel does so by itself when the eventfd is closed."""
        self._irqfd(eventfd, gsi, _IRQFD_DEASSIGN, 0)

    def _irqfd(self, eventfd: int, gsi: int, flags: int, resample: int) -> None:
        fields = {"fd": eventfd, "gsi": gsi, "flags": flags, "resamplefd": resample}
        described = f"fd={eventfd} gsi={gsi} flags={flags:#x}"
        call(ioctls.IRQFD, self, new("struct kvm_irqfd *", fields), described)

    def assign_ioeventfd(self, eventfd: int, where: DoorbellPlace) -> None:
        """Signal `eventfd` at each such write, without an exit (KVM_IOEVENTFD, api.rst 4.59)."""
        self._ioeventfd(eventfd, where, 0)

    def deassign_ioeventfd(self, eventfd: int, where: DoorbellPlace) -> None:
        """Undo `assign_ioeventfd`."""
        self._ioeventfd(eventfd, where, _IOEVENTFD_DEASSIGN)

    def _ioeventfd(self, eventfd: int, where: DoorbellPlace, flags: int) -> None:
        if where.is_port:
            flags |= _IOEVENTFD_PIO
        if where.value is not None:
            flags |= _IOEVENTFD_DATAMATCH
        fields = {
            "datamatch": where.value or 0,
            "addr": where.address,
            "len": where.size,
            "fd": eventfd,
            "flags": flags,
        }
        raw = new("struct kvm_ioeventfd *", fields)
        call(ioctls.IOEVENTFD, self, raw, f"fd={eventfd} {where}")
