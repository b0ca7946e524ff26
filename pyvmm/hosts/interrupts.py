# SPDX-License-Identifier: MIT
"""Interrupts of a VM, as every host offers them: lines, messages, doorbells. Pure.

A line is an input of the interrupt controllers, named by its GSI; a message is an MSI; a doorbell
goes the other way, from the guest to whoever waits for it (docs/architecture.md, Interrupts).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from pyvmm.errors import UsageError
from pyvmm.hosts.owner import Owned
from pyvmm.rules.abi import APIC_DEFAULT_BASE

# Values are named tuples: every command that runs a guest imports this, and they are made quicker
# than dataclasses.
_APIC_WINDOW = APIC_DEFAULT_BASE >> 20
_PORTS = 1 << 16
_GPA_END = 1 << 64
_PORT_SIZES = (1, 2, 4)
_MMIO_SIZES = (1, 2, 4, 8)


class Trigger(enum.Enum):
    """A device's way of driving a line; what the controllers make of it is the guest's choice."""

    EDGE = "edge"
    """In pulses."""
    LEVEL = "level"
    """Up as long as there is a reason."""


class Msi(NamedTuple):
    """A message-signalled interrupt: `address` is a GPA, `data` 32 bits (SDM vol. 3A, 11.11)."""

    address: int
    data: int
    devid: int | None = None

    @property
    def reaches_an_apic(self) -> bool:
        """True if it is written to local APICs; a guest can make a device write anywhere."""
        return (self.address & 0xFFFF_FFFF) >> 20 == _APIC_WINDOW


class SavedMessage(NamedTuple):
    """State of a `MessageInterrupt`."""

    msi: Msi | None
    masked: bool
    pending: bool


class DoorbellPlace(NamedTuple):
    """Writes that ring a doorbell: `size` bytes to `address`, a port where `is_port`, else a GPA.

    `value`: only when this is written.
    """

    address: int
    size: int
    is_port: bool
    value: int | None = None

    def __str__(self) -> str:
        kind = "port" if self.is_port else "GPA"
        value = "" if self.value is None else f", value {self.value:#x}"
        return f"{kind} {self.address:#x}, {self.size} bytes{value}"

    def is_rung_by(self, address: int, size: int, value: int) -> bool:
        """Tell whether this write, in the place's own address space, is one of them."""
        return address == self.address and size == self.size and self.value in (None, value)

    def overlaps(self, other: DoorbellPlace) -> bool:
        """Tell whether one write could ring both."""
        mine = (self.is_port, self.address, self.size)
        if mine != (other.is_port, other.address, other.size):
            return False
        return self.value is None or other.value is None or self.value == other.value


def check_doorbell(
    place: DoorbellPlace, owner: str, present: Iterable[tuple[DoorbellPlace, str]]
) -> None:
    """Refuse, by `UsageError`, a place that cannot be or is taken; `present`: places, and whose."""
    attempt = f"put a doorbell of {owner} at {place}"
    sizes, end = (_PORT_SIZES, _PORTS) if place.is_port else (_MMIO_SIZES, _GPA_END)
    if place.size not in sizes:
        listed = ", ".join(map(str, sizes))
        raise UsageError(attempt, f"its size is none of {listed}", "give it one of them")
    if not 0 <= place.address <= end - place.size:
        raise UsageError(attempt, "it lies outside of the address space", "move it")
    if place.value is not None and not 0 <= place.value < 1 << 8 * place.size:
        raise UsageError(attempt, "no such write has this value", "give one of its size")
    for taken, by in present:
        if place.overlaps(taken):
            raise UsageError(attempt, f"{by} has one at {taken}", "give one of them another place")


class InterruptLine(Owned, Protocol):
    """One device's line to a pin of the interrupt controllers. Any thread.

    Several devices on one pin: it is up as long as one of them holds it up.
    """

    @property
    def gsi(self) -> int:
        """The pin's GSI."""
        ...

    def pulse(self) -> None:
        """Raise and lower it. With `Trigger.EDGE` only."""
        ...

    def raise_(self) -> None:
        """Hold it up. With `Trigger.LEVEL` only; it is up a moment later with resampling."""
        ...

    def lower(self) -> None:
        """Let it go. With `Trigger.LEVEL` only.

        With resampling the guest does that; this is for a reset, and takes milliseconds on KVM.
        Where it fails there, `raise_` is refused until it has succeeded.
        """
        ...

    def fileno(self) -> int:
        """An eventfd that is readable when the guest's end of interrupt has lowered the line.

        Whoever still has a reason then raises it again. Only with resampling; -1 once closed.
        """
        ...

    def drain(self) -> int:
        """Make `fileno` unreadable; the number of times that the guest has lowered it since.

        So has another device, on KVM, that resamples on the same pin and has lowered or closed its
        line.
        """
        ...


class MessageInterrupt(Owned, Protocol):
    """One message of a device's, as a row of an MSI-X table. Any thread. It starts masked."""

    def route(self, msi: Msi) -> None:
        """Send `msi` from now on. One that is not for a local APIC gets nowhere."""
        ...

    def mask(self) -> None:
        """Keep what is signalled. What was before this is with the guest when it returns."""
        ...

    def unmask(self) -> None:
        """Send what is signalled, and what was kept: once, however often it was signalled."""
        ...

    def signal(self) -> None:
        """Send the message, or keep it while masked."""
        ...

    def fileno(self) -> int:
        """An eventfd, of which a write is a signal; -1 where the host has none, or it is closed."""
        ...

    @property
    def is_pending(self) -> bool:
        """True if it is masked and keeps what was signalled: a bit of the pending bit array."""
        ...

    def save(self) -> SavedMessage:
        """Return its state; what it has sent is in the local APICs, so save them afterwards."""
        ...

    def restore(self, saved: SavedMessage) -> None:
        """Make its state `saved`."""
        ...


class Doorbell(Owned, Protocol):
    """Writes of the guest that become an event instead of ending `Vcpu.run`. Any thread."""

    def fileno(self) -> int:
        """An eventfd that is readable when it has been rung; -1 once closed."""
        ...

    def drain(self) -> int:
        """Make it unreadable; the number of writes since the last call, 0 for none."""
        ...


class VmInterrupts(Protocol):
    """The part of a VM that deals with interrupts.

    `owner` names a device for people. A GSI or a place that is taken is refused by a `UsageError`
    that names both. Close what is made here before the VM, or after it.
    """

    def create_irqchip(self) -> None:
        """In-kernel PIC, I/O APIC and local APICs; before the first vCPU."""
        ...

    def create_pit(self) -> None:
        """In-kernel 8254, and port 0x61 with its third counter; after `create_irqchip`."""
        ...

    def set_irq_line(self, gsi: int, level: bool) -> None:
        """Raise or lower a pin of the in-kernel controllers that has no lines."""
        ...

    def create_line(
        self,
        gsi: int,
        trigger: Trigger,
        owner: str,
        *,
        shared: bool = False,
        resample: bool = False,
    ) -> InterruptLine:
        """A line to pin `gsi`, 0 to 23; after `create_irqchip`.

        `shared`: others of the same trigger that say so, too, may have it at the same time.
        `resample`: the guest's end of interrupt lowers it and tells (`Trigger.LEVEL` only).
        """
        ...

    def create_message(self, owner: str) -> MessageInterrupt:
        """A message, masked and without a route; after `create_irqchip`."""
        ...

    def create_doorbell(self, place: DoorbellPlace, owner: str) -> Doorbell:
        """A doorbell; a place that a writable memslot covers is memory, and never rings."""
        ...

    def changing_routes(self) -> AbstractContextManager[None]:
        """Write what changes inside of it at once, at its end: each time costs a grace period.

        Other threads that change routes wait meanwhile. To unmask a message writes before.
        """
        ...

    def can_send_unmaskable(self) -> bool:
        """Tell whether a pin of the controllers or a message can send an NMI, SMI or INIT."""
        ...

    def reset_controllers(self) -> None:
        """The in-kernel controllers and the timer as they were made; while no vCPU runs."""
        ...
