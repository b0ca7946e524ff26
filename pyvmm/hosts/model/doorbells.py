# SPDX-License-Identifier: MIT
"""Doorbells of the model: found by a vCPU before it makes an exit of the write."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pyvmm.hosts.eventfd import Eventfd
from pyvmm.hosts.interrupts import DoorbellPlace, check_doorbell
from pyvmm.hosts.owner import Owner


class ModelDoorbell(Owner):
    """One doorbell; `gone` is told when it is closed."""

    def __init__(
        self, place: DoorbellPlace, owner: str, gone: Callable[[ModelDoorbell], None]
    ) -> None:
        self.place = place
        self.owner = owner
        # Taken by whoever closes first, which is one step for all threads.
        self._gone = [gone]
        self.eventfd = Eventfd()

    def fileno(self) -> int:
        """An eventfd that is readable when it has been rung; -1 once closed."""
        return self.eventfd.fileno()

    def drain(self) -> int:
        """Make it unreadable; the number of writes since the last call."""
        return self.eventfd.drain()

    def close(self) -> None:
        """From now on such a write is an exit again; a second call does nothing."""
        try:
            gone = self._gone.pop()
        except IndexError:
            return
        gone(self)
        self.eventfd.close()


class ModelDoorbells:
    """Those of one VM."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        # Replaced as a whole, so that a vCPU may look without a lock.
        self._all: tuple[ModelDoorbell, ...] = ()

    def create(self, place: DoorbellPlace, owner: str) -> ModelDoorbell:
        """`interface.VmInterrupts.create_doorbell`."""
        with self._changing:
            check_doorbell(place, owner, ((one.place, one.owner) for one in self._all))
            doorbell = ModelDoorbell(place, owner, self._forget)
            self._all += (doorbell,)
            return doorbell

    def _forget(self, doorbell: ModelDoorbell) -> None:
        with self._changing:
            self._all = tuple(one for one in self._all if one is not doorbell)

    def ring(self, address: int, size: int, value: int, *, is_port: bool) -> bool:
        """Take a guest's write; False: it rings none."""
        for one in self._all:
            place = one.place
            if place.is_port is is_port and place.is_rung_by(address, size, value):
                one.eventfd.signal()
                return True
        return False
