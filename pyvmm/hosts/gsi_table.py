# SPDX-License-Identifier: MIT
"""GSIs of a VM: the devices that have them, and what the messages send. Pure; no locks.

GSIs 0 to 23 are the pins of the interrupt controllers, those above are messages. Nobody else
writes the VM's routing table, which is replaced as a whole (KVM api.rst 4.52).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.hosts.interrupts import Msi, Trigger

PINS = 24
"""Pins of an I/O APIC; the first 16 are those of the two 8259s, too."""
MOST_MESSAGES = 4096 - 40
"""Messages for which there is room: KVM takes 4096 routes, and the pins need 40."""


class PinHolder:
    """One device's hold on a pin."""

    def __init__(
        self, gsi: int, owner: str, trigger: Trigger, *, shared: bool, resample: bool
    ) -> None:
        self.gsi = gsi
        self.owner = owner
        self.trigger = trigger
        self.shared = shared
        self.resample = resample

    def refused(self, doing: str, cause: str = "", remedy: str = "") -> UsageError:
        """The error for what a line of this kind is not for, or for `cause`."""
        attempt = f"{doing} (GSI {self.gsi} of {self.owner})"
        if cause:
            return UsageError(attempt, cause, remedy)
        kind = f"it is driven by {self.trigger.value}, {'with' if self.resample else 'without'} "
        return UsageError(attempt, f"{kind}resampling", remedy or "make a line of another kind")


class GsiTable:
    """The GSIs of one VM.

    `write` replaces the routes of all messages: GSI to message. None: there is nothing to write.
    """

    def __init__(self, write: Callable[[Mapping[int, Msi]], None] | None = None) -> None:
        self._write = write
        self._pins: dict[int, list[PinHolder]] = {}
        self._messages: dict[int, str] = {}
        self._free: list[int] = []
        self._routes: dict[int, Msi] = {}
        self._written: dict[int, Msi] = {}
        self._depth = 0

    def take_pin(
        self, gsi: int, trigger: Trigger, owner: str, *, shared: bool, resample: bool
    ) -> PinHolder:
        """Take a pin. Raises `UsageError` where another device has it and does not share it."""
        attempt = f"give GSI {gsi} to {owner}"
        if resample and trigger is not Trigger.LEVEL:
            raise UsageError(attempt, "a line that is pulsed is not resampled", "drive it by level")
        if not 0 <= gsi < PINS:
            cause = f"the interrupt controllers have pins 0 to {PINS - 1}"
            raise UsageError(attempt, cause, "take one of them, or a message")
        holders = self._pins.setdefault(gsi, [])
        for other in holders:
            if not (shared and other.shared):
                raise UsageError(attempt, f"{other.owner} has it", "give one of them another")
            if other.trigger is not trigger:
                raise UsageError(
                    attempt,
                    f"{other.owner} drives it by {other.trigger.value}, this by {trigger.value}",
                    "give one of them another",
                )
        holder = PinHolder(gsi, owner, trigger, shared=shared, resample=resample)
        holders.append(holder)
        return holder

    def give_pin(self, holder: PinHolder) -> None:
        """Give it back."""
        self._pins[holder.gsi].remove(holder)

    def take_message(self, owner: str) -> int:
        """Take the GSI of a message. Raises `HostLacksError` when none is left."""
        if self._free:
            gsi = heapq.heappop(self._free)
        elif len(self._messages) < MOST_MESSAGES:
            gsi = PINS + len(self._messages)
        else:
            raise HostLacksError(
                f"give a message interrupt to {owner}",
                f"all {MOST_MESSAGES} are taken",
                "use fewer message interrupts",
            )
        self._messages[gsi] = owner
        return gsi

    def give_message(self, gsi: int) -> None:
        """Give it back; its route goes with the next one that is written."""
        del self._messages[gsi]
        self._routes.pop(gsi, None)
        heapq.heappush(self._free, gsi)

    # -- the routing table --

    def route(self, gsi: int, msi: Msi | None) -> None:
        """Let a message's GSI send `msi`; None: nothing. Written by `commit` or `flush`."""
        if msi is None:
            self._routes.pop(gsi, None)
        else:
            self._routes[gsi] = msi

    @property
    def routes(self) -> Collection[Msi]:
        """Messages that have a route, masked ones too."""
        return self._routes.values()

    def commit(self) -> None:
        """Write what has changed, or leave that to the end of `changing`."""
        if not self._depth:
            self.flush()

    def flush(self) -> None:
        """Write what has changed now."""
        if self._routes != self._written:
            routes = dict(self._routes)
            if self._write is not None:
                self._write(routes)
            self._written = routes

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Write everything that changes inside of it at its end, once."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            self.commit()
