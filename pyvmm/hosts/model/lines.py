# SPDX-License-Identifier: MIT
"""Interrupt lines and messages of the model, to its own controllers."""

from __future__ import annotations

import threading

from pyvmm.errors import HostLacksError, InternalError
from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.gsi_table import GsiTable, PinHolder
from pyvmm.hosts.interrupts import Msi, SavedMessage, Trigger
from pyvmm.hosts.model.controllers import ModelControllers
from pyvmm.hosts.owner import Owner

_LOGICAL = 1 << 2
_FIXED, _LOWEST_PRIORITY = 0, 1


class ModelGsis:
    """The GSIs of a VM; `table` under `lock`. There are no routes: a message knows its own."""

    def __init__(self, controllers: ModelControllers) -> None:
        self.controllers = controllers
        self.lock = threading.RLock()
        self.table = GsiTable()

    def create_line(
        self, gsi: int, trigger: Trigger, owner: str, *, shared: bool, resample: bool
    ) -> ModelLine:
        """`interface.VmInterrupts.create_line`."""
        with self.lock:
            holder = self.table.take_pin(gsi, trigger, owner, shared=shared, resample=resample)
            try:
                return ModelLine(self, holder)
            except BaseException:
                self.table.give_pin(holder)
                raise

    def create_message(self, owner: str) -> ModelMessage:
        """`interface.VmInterrupts.create_message`."""
        with self.lock:
            return ModelMessage(self, owner, self.table.take_message(owner))


class ModelLine(Owner):
    """One line; what it holds up is known to the controllers by its holder."""

    def __init__(self, gsis: ModelGsis, holder: PinHolder) -> None:
        self._gsis = gsis
        self._holder = holder
        self._closed = False
        self._ended = Eventfd() if holder.resample else None
        if self._ended is not None:
            gsis.controllers.resample(holder.gsi, holder, self._ended.signal)

    @property
    def gsi(self) -> int:
        """The pin's GSI."""
        return self._holder.gsi

    def pulse(self) -> None:
        """Raise and lower it."""
        with self._gsis.lock:
            self._require(self._holder.trigger is Trigger.EDGE, "pulse it")
            self._gsis.controllers.hold_line(self.gsi, self._holder, True)
            self._gsis.controllers.hold_line(self.gsi, self._holder, False)

    def raise_(self) -> None:
        """Hold it up."""
        with self._gsis.lock:
            self._require(self._holder.trigger is Trigger.LEVEL, "raise it")
            self._gsis.controllers.hold_line(self.gsi, self._holder, True)

    def lower(self) -> None:
        """Let it go."""
        with self._gsis.lock:
            self._require(self._holder.trigger is Trigger.LEVEL, "lower it")
            self._gsis.controllers.hold_line(self.gsi, self._holder, False)

    def _require(self, fits: bool, doing: str) -> None:
        if not fits:
            raise self._holder.refused(doing)
        if self._closed:
            raise self._holder.refused(doing, "it has been closed", "make another")

    def fileno(self) -> int:
        """An eventfd, readable when the guest has lowered the line; -1 once closed."""
        if self._ended is None:
            raise self._holder.refused("wait for the end of its interrupt")
        return self._ended.fileno()

    def drain(self) -> int:
        """Make it unreadable; the number of times that the guest has lowered it since."""
        if self._ended is None:
            raise self._holder.refused("ask for the end of its interrupt")
        return self._ended.drain()

    def close(self) -> None:
        """Let it go, and give the pin back; a second call does nothing."""
        with self._gsis.lock:
            if self._closed:
                return
            self._closed = True
            self._gsis.controllers.forget_line(self.gsi, self._holder)
            self._gsis.table.give_pin(self._holder)
            if self._ended is not None:
                self._ended.close()


class ModelMessage(Owner):
    """One message."""

    def __init__(self, gsis: ModelGsis, owner: str, gsi: int) -> None:
        self._gsis = gsis
        self._owner = owner
        self._gsi = gsi
        self._msi: Msi | None = None
        self._masked = True
        self._pending = False
        self._closed = False

    def route(self, msi: Msi) -> None:
        """Send `msi` from now on. Raises `HostLacksError` for one that the model cannot deliver."""
        with self._gsis.lock:
            self._require_open("route")
            self._check(msi)
            self._msi = msi

    def _check(self, msi: Msi) -> None:
        mode = msi.data >> 8 & 7
        if not msi.reaches_an_apic:
            return
        if msi.address & _LOGICAL or mode not in (_FIXED, _LOWEST_PRIORITY):
            raise HostLacksError(
                f"route a message of {self._owner} on the model",
                f"address {msi.address:#x} and data {msi.data:#x} ask for more than an interrupt "
                "to one APIC by its number",
                "run it on a host with /dev/kvm",
            )

    def mask(self) -> None:
        """Keep what is signalled."""
        with self._gsis.lock:
            self._require_open("mask")
            self._masked = True

    def unmask(self) -> None:
        """Send what is signalled, and what was kept."""
        with self._gsis.lock:
            self._require_open("unmask")
            self._masked = False
            if self._pending:
                self._pending = False
                self._send()

    def fileno(self) -> int:
        """None: -1."""
        return -1

    def signal(self) -> None:
        """Send the message, or keep it while masked."""
        with self._gsis.lock:
            self._require_open("signal")
            if self._masked:
                self._pending = True
            else:
                self._send()

    def _send(self) -> None:
        msi = self._msi
        if msi is not None and msi.reaches_an_apic and not msi.address >> 32:
            self._gsis.controllers.deliver(msi.address >> 12 & 0xFF, msi.data & 0xFF)

    @property
    def is_pending(self) -> bool:
        """True if it is masked and keeps what was signalled."""
        return self._pending

    def save(self) -> SavedMessage:
        """Return its state."""
        with self._gsis.lock:
            self._require_open("save")
            return SavedMessage(self._msi, self._masked, self._pending)

    def restore(self, saved: SavedMessage) -> None:
        """Make its state `saved`."""
        with self._gsis.lock:
            self._require_open("restore")
            if saved.msi is not None:
                self._check(saved.msi)
            self._msi, self._masked, self._pending = saved.msi, True, saved.pending
            if not saved.masked:
                self.unmask()

    def _require_open(self, doing: str) -> None:
        if self._closed:
            raise InternalError(f"{doing} a message of {self._owner}", "it has been closed")

    def close(self) -> None:
        """Give its GSI back; what it kept is forgotten. A second call does nothing."""
        with self._gsis.lock:
            if not self._closed:
                self._closed = True
                self._pending = False
                self._gsis.table.give_message(self._gsi)
