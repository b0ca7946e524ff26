# SPDX-License-Identifier: MIT
"""Vectors of one PCI function: messages of the VM's, made when they are used first."""

from __future__ import annotations

from collections.abc import Sequence

from pyvmm.devices.pci.msix import VectorChange
from pyvmm.hosts.interrupts import MessageInterrupt
from pyvmm.machine.device_interrupts import DeviceInterrupts


class Vectors:
    """The messages by vector; `name` is the function's, for people. Under its device's guard."""

    def __init__(self, interrupts: DeviceInterrupts, name: str) -> None:
        self._interrupts = interrupts
        self._name = name
        self._messages: dict[int, MessageInterrupt] = {}

    def message(self, vector: int) -> MessageInterrupt:
        """The message of a vector; masked, where it is new."""
        if vector not in self._messages:
            self._messages[vector] = self._interrupts.message(f"{self._name}, vector {vector}")
        return self._messages[vector]

    def change(self, changes: Sequence[VectorChange]) -> None:
        """Mask, route and unmask. All routes are known before the first message is unmasked, so
        that the host's table is written once."""
        with self._interrupts.changing_routes():
            for vector, msi, masked in changes:
                if masked:
                    self.message(vector).mask()
                else:
                    self.message(vector).route(msi)
            for vector, _, masked in changes:
                if not masked:
                    self.message(vector).unmask()

    def signal(self, vector: int) -> None:
        """Send a vector's message; it is kept while masked."""
        self.message(vector).signal()

    def is_pending(self, vector: int) -> bool:
        """Tell whether a vector keeps what was signalled."""
        return vector in self._messages and self._messages[vector].is_pending

    def keep(self, vectors: Sequence[int]) -> None:
        """Signal what was pending when the function was saved."""
        for vector in vectors:
            self.signal(vector)

    def forget(self) -> None:
        """Give all of them back, with what they keep."""
        while self._messages:
            self._interrupts.give_back(self._messages.popitem()[1])
