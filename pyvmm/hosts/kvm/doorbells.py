# SPDX-License-Identifier: MIT
"""Doorbells on KVM: an eventfd each, signalled by KVM instead of an exit."""

from __future__ import annotations

from collections.abc import Callable

from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.interrupts import DoorbellPlace
from pyvmm.hosts.kvm.interrupts import VmInterrupts
from pyvmm.hosts.owner import Owner


class Doorbell(Owner):
    """One doorbell; `gone` is told when it is closed."""

    def __init__(
        self, vm: VmInterrupts, place: DoorbellPlace, owner: str, gone: Callable[[Doorbell], None]
    ) -> None:
        self.place = place
        self.owner = owner
        self._vm = vm
        # Taken by whoever closes first, which is one step for all threads.
        self._gone = [gone]
        self._eventfd = Eventfd()
        try:
            vm.assign_ioeventfd(self._eventfd.fileno(), place)
        except BaseException:
            self._eventfd.close()
            raise

    def fileno(self) -> int:
        """An eventfd that is readable when it has been rung; -1 once closed."""
        return self._eventfd.fileno()

    def drain(self) -> int:
        """Make it unreadable; the number of writes since the last call."""
        return self._eventfd.drain()

    def close(self) -> None:
        """From now on such a write is an exit again; a second call does nothing."""
        try:
            gone = self._gone.pop()
        except IndexError:
            return
        try:
            if self._vm.fd >= 0:
                self._vm.deassign_ioeventfd(self._eventfd.fileno(), self.place)
        finally:
            self._eventfd.close()
            gone(self)
