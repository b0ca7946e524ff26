# SPDX-License-Identifier: MIT
"""GSIs of a VM on KVM: the table of who has them, its routes in the kernel, and shared levels."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyvmm.hosts.gsi_table import PINS, GsiTable, PinHolder
from pyvmm.hosts.interrupts import Msi
from pyvmm.hosts.kvm.interrupts import GsiRoute, Irqchip, IrqchipPin, MsiRoute, VmInterrupts
from pyvmm.hosts.kvm.resampling import Resamplers
from pyvmm.hosts.kvm.sleeping import is_unmaskable_message

_PIC_PINS = 8


def pin_routes() -> list[GsiRoute]:
    """Routes of the pins as KVM_CREATE_IRQCHIP makes them: the first 16 lead to an 8259, too."""
    routes: list[GsiRoute] = []
    for gsi in range(2 * _PIC_PINS):
        chip = Irqchip.PIC_MASTER if gsi < _PIC_PINS else Irqchip.PIC_SLAVE
        routes.append(IrqchipPin(gsi, chip, gsi % _PIC_PINS))
    routes.extend(IrqchipPin(gsi, Irqchip.IOAPIC, gsi) for gsi in range(PINS))
    return routes


class Gsis:
    """The GSIs of `vm`; `table`, `resamplers` under `lock`, levels under `levels`. Any thread.

    KVM lets who changes an irqfd wait, for milliseconds at times; who sets a level does not wait
    for that. `levels` is the inner one.
    """

    def __init__(self, vm: VmInterrupts) -> None:
        self.vm = vm
        self.lock = threading.RLock()
        self.levels = threading.Lock()
        self.table = GsiTable(self._write)
        self.resamplers = Resamplers(vm)
        self._up: dict[int, set[PinHolder]] = {}

    def _write(self, messages: Mapping[int, Msi]) -> None:
        routes = pin_routes()
        routes.extend(MsiRoute(gsi, msi) for gsi, msi in messages.items())
        self.vm.set_gsi_routing(routes)

    def has_unmaskable_message(self) -> bool:
        """Tell whether a message may send more than an interrupt, now or once it is unmasked."""
        with self.lock:
            return any(map(is_unmaskable_message, self.table.routes))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """`GsiTable.changing`; other threads' changes wait."""
        with self.lock, self.table.changing():
            yield

    def set_level(self, holder: PinHolder, level: bool) -> None:
        """Raise a pin for one of its holders, or let it go; it is up while one holds it up.

        Under `levels`.
        """
        up = self._up.setdefault(holder.gsi, set())
        if level:
            up.add(holder)
        else:
            up.discard(holder)
        self.vm.set_irq_line(holder.gsi, bool(up))

    def let_go(self, holder: PinHolder) -> None:
        """Lower what it holds up, if the VM is still there. Under `levels`."""
        up = self._up.get(holder.gsi, set())
        if holder in up and self.vm.fd >= 0:
            self.set_level(holder, False)
        up.discard(holder)
