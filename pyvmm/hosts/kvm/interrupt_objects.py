# SPDX-License-Identifier: MIT
"""The part of a VM that makes lines, messages and doorbells. What few VMs use is made when used."""

from __future__ import annotations

import errno
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from pyvmm.errors import SystemCallError
from pyvmm.hosts.interrupts import DoorbellPlace, Trigger, check_doorbell
from pyvmm.hosts.kvm.interrupts import VmInterrupts

if TYPE_CHECKING:
    from pyvmm.hosts.call_record import Recorder
    from pyvmm.hosts.kvm.doorbells import Doorbell
    from pyvmm.hosts.kvm.gsis import Gsis
    from pyvmm.hosts.kvm.lines import Line
    from pyvmm.hosts.kvm.messages import Message


class InterruptObjects(VmInterrupts):
    """Methods raise `KvmError`, and `UsageError` for what cannot be or is taken."""

    def __init__(self, fd: int, recorder: Recorder | None = None) -> None:
        super().__init__(fd, recorder)
        self._has_irqchip = False
        self._gsis: Gsis | None = None
        self._doorbells: list[Doorbell] = []
        self._making = threading.Lock()

    def create_irqchip(self) -> None:
        """In-kernel PIC, I/O APIC and local APICs; before the first vCPU (api.rst 4.24)."""
        super().create_irqchip()
        self._has_irqchip = True

    def can_send_unmaskable(self) -> bool:
        """Tell whether a pin of the I/O APIC or a message sends more than an interrupt."""
        if self._gsis is not None and self._gsis.has_unmaskable_message():
            return True
        return super().can_send_unmaskable()

    def create_line(
        self,
        gsi: int,
        trigger: Trigger,
        owner: str,
        *,
        shared: bool = False,
        resample: bool = False,
    ) -> Line:
        """A line to pin `gsi`, as `interface.VmInterrupts.create_line` says."""
        from pyvmm.hosts.kvm.lines import make_line

        gsis = self._with_gsis(f"give GSI {gsi} to {owner}")
        with gsis.lock:
            holder = gsis.table.take_pin(gsi, trigger, owner, shared=shared, resample=resample)
            try:
                return make_line(gsis, holder)
            except BaseException:
                gsis.table.give_pin(holder)
                raise

    def create_message(self, owner: str) -> Message:
        """A message, masked and without a route."""
        from pyvmm.hosts.kvm.messages import Message

        return Message(self._with_gsis(f"give a message interrupt to {owner}"), owner)

    def changing_routes(self) -> AbstractContextManager[None]:
        """Write what changes inside of it at once, at its end."""
        return self._with_gsis("change routes of interrupts").changing()

    def _with_gsis(self, attempt: str) -> Gsis:
        if not self._has_irqchip:
            raise SystemCallError(attempt, errno.ENXIO, "ENXIO (no interrupt controllers)")
        with self._making:
            if self._gsis is None:
                from pyvmm.hosts.kvm.gsis import Gsis

                self._gsis = Gsis(self)
            return self._gsis

    def create_doorbell(self, place: DoorbellPlace, owner: str) -> Doorbell:
        """A doorbell (KVM_IOEVENTFD, api.rst 4.59)."""
        from pyvmm.hosts.kvm.doorbells import Doorbell

        with self._making:
            check_doorbell(place, owner, ((one.place, one.owner) for one in self._doorbells))
            doorbell = Doorbell(self, place, owner, self._forget_doorbell)
            self._doorbells.append(doorbell)
            return doorbell

    def _forget_doorbell(self, doorbell: Doorbell) -> None:
        with self._making:
            self._doorbells.remove(doorbell)
