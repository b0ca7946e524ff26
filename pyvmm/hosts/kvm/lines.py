# SPDX-License-Identifier: MIT
"""Interrupt lines on KVM: KVM_IRQ_LINE for levels, an irqfd for pulses and for resampling.

KVM_IRQ_LINE has raised the line when it returns, and a line that nobody raises costs nothing to
make. An irqfd is raised from a work queue of the kernel's a moment later (api.rst 4.75).
"""

from __future__ import annotations

from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.gsi_table import PinHolder
from pyvmm.hosts.interrupts import Trigger
from pyvmm.hosts.kvm.gsis import Gsis
from pyvmm.hosts.owner import Owner


class LevelLine(Owner):
    """A line that is up as long as its device says so."""

    def __init__(self, gsis: Gsis, holder: PinHolder) -> None:
        self._gsis = gsis
        self._holder = holder
        self._closed = False

    @property
    def gsi(self) -> int:
        """The pin's GSI."""
        return self._holder.gsi

    def pulse(self) -> None:
        """Refused."""
        raise self._holder.refused("pulse it")

    def raise_(self) -> None:
        """Hold it up."""
        self._set(True)

    def lower(self) -> None:
        """Let it go."""
        self._set(False)

    def _set(self, level: bool) -> None:
        with self._gsis.lock:
            if self._closed:
                raise self._holder.refused("use it", "it has been closed")
            self._gsis.set_level(self._holder, level)

    def fileno(self) -> int:
        """Refused: nothing to be told."""
        raise self._holder.refused("wait for the end of its interrupt")

    def drain(self) -> int:
        """Refused as well."""
        raise self._holder.refused("ask for the end of its interrupt")

    def close(self) -> None:
        """Let it go, and give the pin back; a second call does nothing."""
        with self._gsis.lock:
            if not self._closed:
                self._closed = True
                self._gsis.give_pin(self._holder)


class EdgeLine(LevelLine):
    """A line that is pulsed, through an irqfd that is made for the first pulse."""

    def __init__(self, gsis: Gsis, holder: PinHolder) -> None:
        super().__init__(gsis, holder)
        self._eventfd: Eventfd | None = None

    def pulse(self) -> None:
        """Raise and lower it, a moment later."""
        with self._gsis.lock:
            if self._closed:
                raise self._holder.refused("use it", "it has been closed")
            if self._eventfd is None:
                self._eventfd = self._assigned()
            self._eventfd.signal()

    def _assigned(self) -> Eventfd:
        eventfd = Eventfd()
        try:
            self._gsis.vm.assign_irqfd(eventfd.fileno(), self.gsi)
        except BaseException:
            eventfd.close()
            raise
        return eventfd

    def _set(self, level: bool) -> None:
        raise self._holder.refused(f"{'raise' if level else 'lower'} it")

    def close(self) -> None:
        """Let go of the irqfd and the pin; what was signalled is with the controllers."""
        with self._gsis.lock:
            if self._eventfd is not None and not self._closed:
                _deassign(self._gsis, self._eventfd, self.gsi)
            super().close()


class ResampledLine(LevelLine):
    """A line that the guest's end of interrupt lowers (KVM_IRQFD_FLAG_RESAMPLE)."""

    def __init__(self, gsis: Gsis, holder: PinHolder) -> None:
        super().__init__(gsis, holder)
        self._raised = Eventfd()
        try:
            self._ended = Eventfd()
            try:
                raised, ended = self._raised.fileno(), self._ended.fileno()
                gsis.vm.assign_irqfd(raised, holder.gsi, resample=ended)
            except BaseException:
                self._ended.close()
                raise
        except BaseException:
            self._raised.close()
            raise

    def _set(self, level: bool) -> None:
        if not level:
            raise self._holder.refused("lower it", "the guest's end of interrupt does that")
        with self._gsis.lock:
            if self._closed:
                raise self._holder.refused("use it", "it has been closed")
            self._raised.signal()

    def fileno(self) -> int:
        """An eventfd, readable when the guest has lowered the line; -1 once closed."""
        return self._ended.fileno()

    def drain(self) -> int:
        """Make it unreadable; the number of times that the guest has lowered it since."""
        return self._ended.drain()

    def close(self) -> None:
        """Let go of the irqfd, which lowers the line, and of the pin."""
        with self._gsis.lock:
            if not self._closed:
                _deassign(self._gsis, self._raised, self.gsi)
                self._ended.close()
            super().close()


def _deassign(gsis: Gsis, eventfd: Eventfd, gsi: int) -> None:
    """Undo an irqfd, whose VM may be closed already: that undoes it, too."""
    try:
        if gsis.vm.fd >= 0:
            gsis.vm.deassign_irqfd(eventfd.fileno(), gsi)
    finally:
        eventfd.close()


def make_line(gsis: Gsis, holder: PinHolder) -> LevelLine:
    """The line of a pin's holder. Raises `KvmError`."""
    if holder.resample:
        return ResampledLine(gsis, holder)
    return EdgeLine(gsis, holder) if holder.trigger is Trigger.EDGE else LevelLine(gsis, holder)
