# SPDX-License-Identifier: MIT
"""Message interrupts on KVM: an eventfd each, assigned as irqfd to a GSI that sends the message."""

from __future__ import annotations

from pyvmm.errors import InternalError
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.interrupts import Msi, SavedMessage
from pyvmm.hosts.kvm.gsis import Gsis
from pyvmm.hosts.owner import Owner


class Message(Owner):
    """One message. Its irqfd is assigned while it is not masked, so only then KVM takes signals.

    While it is masked the eventfd's counter keeps them: assigning sends one interrupt for what is
    in there, and deassigning waits for what is on its way and sets the counter to 0
    (virt/kvm/eventfd.c, kvm_irqfd_assign and irqfd_shutdown).
    """

    def __init__(self, gsis: Gsis, owner: str) -> None:
        self._gsis = gsis
        self._owner = owner
        self._msi: Msi | None = None
        self._masked = True
        self._closed = False
        self._eventfd = Eventfd()
        try:
            with gsis.lock:
                self._gsi = gsis.table.take_message(owner)
        except BaseException:
            self._eventfd.close()
            raise

    def route(self, msi: Msi) -> None:
        """Send `msi` from now on."""
        with self._gsis.lock:
            self._require_open("route")
            self._msi = msi
            table = self._gsis.table
            table.route(self._gsi, msi if msi.reaches_an_apic else None)
            if not self._masked:
                table.commit()

    def mask(self) -> None:
        """Keep what is signalled."""
        with self._gsis.lock:
            self._require_open("mask")
            if not self._masked:
                self._gsis.vm.deassign_irqfd(self._eventfd.fileno(), self._gsi)
                self._masked = True

    def unmask(self) -> None:
        """Send what is signalled, and what was kept."""
        with self._gsis.lock:
            self._require_open("unmask")
            if self._masked:
                # Without its route an interrupt would get nowhere.
                self._gsis.table.flush()
                self._gsis.vm.assign_irqfd(self._eventfd.fileno(), self._gsi)
                self._masked = False

    def signal(self) -> None:
        """Send the message, or keep it while masked."""
        if self._closed:
            self._require_open("signal")
        self._eventfd.signal()

    def fileno(self) -> int:
        """Its eventfd."""
        return self._eventfd.fileno()

    @property
    def is_pending(self) -> bool:
        """True if it is masked and keeps what was signalled."""
        with self._gsis.lock:
            return self._masked and self._eventfd.is_readable()

    def save(self) -> SavedMessage:
        """Return its state, after what it has sent has arrived in the local APICs."""
        with self._gsis.lock:
            self._require_open("save")
            state = SavedMessage(self._msi, self._masked, self.is_pending)
            if not self._masked:
                self.mask()
                self.unmask()
            return state

    def restore(self, saved: SavedMessage) -> None:
        """Make its state `saved`."""
        with self._gsis.lock:
            self.mask()
            self._eventfd.drain()
            self._msi = saved.msi
            reaches = saved.msi is not None and saved.msi.reaches_an_apic
            self._gsis.table.route(self._gsi, saved.msi if reaches else None)
            if saved.pending:
                self._eventfd.signal()
            if not saved.masked:
                self.unmask()

    def _require_open(self, doing: str) -> None:
        if self._closed:
            raise InternalError(f"{doing} a message of {self._owner}", "it has been closed")

    def close(self) -> None:
        """Give its GSI back; what it kept is forgotten. A second call does nothing."""
        with self._gsis.lock:
            if self._closed:
                return
            self._closed = True
            try:
                if not self._masked and self._gsis.vm.fd >= 0:
                    self._gsis.vm.deassign_irqfd(self._eventfd.fileno(), self._gsi)
            finally:
                self._eventfd.close()
                self._gsis.table.give_message(self._gsi)
