# SPDX-License-Identifier: MIT
"""Interrupt lines on KVM: KVM_IRQ_LINE, and an irqfd where the guest's end of interrupt lowers it.

KVM_IRQ_LINE has raised the line when it returns, and a line that nobody raises costs nothing. An
irqfd (api.rst 4.75) is raised from a work queue of the kernel's a moment later, a write to its
eventfd takes as long as the ioctl, and to take one away takes milliseconds.
"""

from __future__ import annotations

from contextlib import ExitStack

from pyvmm.hosts.gsi_table import PinHolder
from pyvmm.hosts.interrupts import Trigger
from pyvmm.hosts.kvm.gsis import Gsis
from pyvmm.hosts.kvm.resampling import Resampler
from pyvmm.hosts.owner import Owner


class Line(Owner):
    """A line that its device raises and lowers, or pulses."""

    def __init__(self, gsis: Gsis, holder: PinHolder) -> None:
        self._gsis = gsis
        self._holder = holder
        self._closed = False

    @property
    def gsi(self) -> int:
        """The pin's GSI."""
        return self._holder.gsi

    def pulse(self) -> None:
        """Raise and lower it."""
        with self._gsis.levels:
            self._require(Trigger.EDGE, "pulse it")
            self._gsis.set_level(self._holder, True)
            self._gsis.set_level(self._holder, False)

    def raise_(self) -> None:
        """Hold it up."""
        with self._gsis.levels:
            self._require(Trigger.LEVEL, "raise it")
            self._gsis.set_level(self._holder, True)

    def lower(self) -> None:
        """Let it go."""
        with self._gsis.levels:
            self._require(Trigger.LEVEL, "lower it")
            self._gsis.set_level(self._holder, False)

    def _require(self, trigger: Trigger, doing: str) -> None:
        if self._holder.trigger is not trigger:
            raise self._holder.refused(doing)
        if self._closed:
            raise self._holder.refused(doing, "it has been closed", "make another")

    def fileno(self) -> int:
        """Refused: nothing to be told."""
        raise self._holder.refused("wait for the end of its interrupt")

    def drain(self) -> int:
        """Refused as well."""
        raise self._holder.refused("ask for the end of its interrupt")

    def close(self) -> None:
        """Let it go, and give the pin back; a second call does nothing."""
        with self._gsis.lock, ExitStack() as steps, self._gsis.levels:
            if self._closed:
                return
            self._closed = True
            # From the last to the first, without `levels`, and all of them whatever fails.
            steps.callback(self._gsis.table.give_pin, self._holder)
            steps.callback(self._undo)
            self._gsis.let_go(self._holder)

    def _undo(self) -> None:
        """Give back what else there is. Under the lock of irqfds."""


class ResampledLine(Line):
    """A line that the guest's end of interrupt lowers (KVM_IRQFD_FLAG_RESAMPLE)."""

    def __init__(self, gsis: Gsis, holder: PinHolder) -> None:
        super().__init__(gsis, holder)
        self._irqfd = Resampler()
        try:
            gsis.resamplers.add(holder.gsi, self._irqfd)
        except BaseException:
            self._irqfd.close()
            raise

    def raise_(self) -> None:
        """Hold it up, a moment later."""
        with self._gsis.levels:
            self._require(Trigger.LEVEL, "raise it")
            if self._irqfd.is_lost:
                cause = "its irqfd could not be assigned again"
                raise self._holder.refused("raise it", cause, "lower it first, or close it")
            self._irqfd.raised.signal()

    def lower(self) -> None:
        """Let it go, by taking the irqfd away for a moment, which alone does that.

        Where it fails it may not be assigned any more; to raise it is refused then, until this
        succeeds.
        """
        with self._gsis.lock:
            self._require(Trigger.LEVEL, "lower it")
            self._gsis.resamplers.lower(self.gsi, self._irqfd, stays=True)

    def fileno(self) -> int:
        """An eventfd, readable when the guest has lowered the line; -1 once closed."""
        return self._irqfd.ended.fileno()

    def drain(self) -> int:
        """Make it unreadable; the number of times that the guest has lowered it since."""
        return self._irqfd.ended.drain()

    def _undo(self) -> None:
        """Take the irqfd away, which lowers the line; a VM that has been closed has done so."""
        try:
            self._gsis.resamplers.lower(self.gsi, self._irqfd, stays=False)
        finally:
            self._irqfd.close()


def make_line(gsis: Gsis, holder: PinHolder) -> Line:
    """The line of a pin's holder. Raises `KvmError`."""
    return ResampledLine(gsis, holder) if holder.resample else Line(gsis, holder)
