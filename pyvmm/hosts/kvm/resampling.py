# SPDX-License-Identifier: MIT
"""Irqfds with resampling: those of one pin share one level in KVM."""

from __future__ import annotations

from contextlib import ExitStack

from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.kvm.interrupts import VmInterrupts
from pyvmm.hosts.owner import Owner


class Resampler(Owner):
    """The two eventfds of an irqfd: one raises, the other tells of the end of interrupt."""

    def __init__(self) -> None:
        self.raised = Eventfd()
        try:
            self.ended = Eventfd()
        except BaseException:
            self.raised.close()
            raise
        self.is_lost = False
        """True if it was to be assigned again, and could not be."""

    def close(self) -> None:
        """Close both."""
        self.raised.close()
        self.ended.close()


class Resamplers:
    """The irqfds with resampling of a VM, by pin. Under `Gsis.lock`.

    KVM lowers what they hold up together at the guest's end of interrupt, or when the last of a pin
    goes (``irqfd_resampler_shutdown``); one of several cannot be lowered.
    """

    def __init__(self, vm: VmInterrupts) -> None:
        self._vm = vm
        self._pins: dict[int, list[Resampler]] = {}

    def add(self, gsi: int, one: Resampler) -> None:
        """Assign the irqfd. Raises `KvmError`."""
        self._assign(gsi, one)
        self._pins.setdefault(gsi, []).append(one)

    def lower(self, gsi: int, one: Resampler, *, stays: bool) -> None:
        """Lower the pin by taking all of its irqfds away, and assign those that stay again.

        The others are told as of an end of interrupt: who has a reason raises the line again.
        Raises `KvmError` when all has been tried; one that is not assigned then, is by the next
        call that succeeds.
        """
        present = self._pins[gsi]
        staying = [each for each in present if stays or each is not one]
        self._pins[gsi] = staying
        if self._vm.fd < 0:
            return
        # From the last to the first, and all of them whatever fails.
        with ExitStack() as steps:
            for each in staying:
                if each is not one:
                    steps.callback(each.ended.signal)
                steps.callback(self._assign, gsi, each)
            for each in present:
                steps.callback(self._vm.deassign_irqfd, each.raised.fileno(), gsi)

    def _assign(self, gsi: int, one: Resampler) -> None:
        try:
            self._vm.assign_irqfd(one.raised.fileno(), gsi, resample=one.ended.fileno())
        except BaseException:
            one.is_lost = True
            raise
        one.is_lost = False
