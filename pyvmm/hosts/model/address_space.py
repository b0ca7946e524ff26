# SPDX-License-Identifier: MIT
"""View of its VM that a vCPU of the model has: guest memory as spans, and the VM's services.

The CPU side executes guest code against exactly the spans that the memory side hands out and
never touches other host memory. Nothing here reaches the operating system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pyvmm.hosts.exits import Exit

if TYPE_CHECKING:
    from pyvmm.hosts.model.saved_values import SavedApic

_CHUNK = 2 << 20
"""Bytes: Unicorn's time to unmap memory grows with its size."""


@dataclass(frozen=True, slots=True)
class Span:
    """Memory that the guest reaches directly: [gpa, gpa + size) in bytes, whole pages.

    `address` is the host virtual address of the first byte. It stays mapped, all of it, until
    after the address space's `generation` has changed and every vCPU has seen it (`exclusive`).
    """

    gpa: int
    size: int
    address: int
    writable: bool

    def chunks(self) -> Iterator[Span]:
        """Yield it, cut where multiples of `_CHUNK` are."""
        start, end = self.gpa, self.gpa + self.size
        while start < end:
            stop = min(end, (start // _CHUNK + 1) * _CHUNK)
            yield Span(start, stop - start, self.address + start - self.gpa, self.writable)
            start = stop


class AddressSpace(Protocol):
    """The guest-physical address space, as KVM's memory rules allow it at this moment."""

    @property
    def generation(self) -> int:
        """Changes whenever `spans` would answer differently."""
        ...

    def spans(self) -> Sequence[Span]:
        """Return the memory that the guest reaches directly, ascending, not overlapping.

        Memory that is allowed but not allocated yet is inside.
        """
        ...

    def blocked(self, gpa: int, size: int, write: bool) -> Exit | None:
        """Explain why an access outside the spans, or a write to a read-only one, is blocked.

        The exit that it is (`MemoryFault`); None: it is MMIO. May also make the memory reachable
        (a new `generation`) and answer None: the access is then tried again.
        """
        ...


class PortPosts(Protocol):
    """The port rules of `posted_ring.PostedRing`, as a vCPU asks them."""

    def read_value(self, port: int) -> int | None:
        """The byte that a read of `port` gives without an exit; None: an exit as usual."""
        ...

    def takes_writes(self, port: int) -> bool:
        """Tell whether a single-byte write to `port` is posted instead of ending `run`."""
        ...

    def push(self, vcpu: int, port: int, value: int) -> bool:
        """Append a byte written to `port`; False: the ring is full."""
        ...


class Doorbells(Protocol):
    """The VM's doorbells, as a vCPU asks them. Any thread."""

    def ring(self, address: int, size: int, value: int, *, is_port: bool) -> bool:
        """Take a write that rings one; False: an exit as usual."""
        ...


class InterruptControllers(Protocol):
    """The VM's interrupt controllers and its timer, with `Vm.create_irqchip`.

    Any thread may call any of it.
    """

    def port_read(self, port: int, size: int) -> int | None:
        """Read one of the controllers' ports; None: the port is not theirs."""
        ...

    def port_write(self, port: int, size: int, value: int) -> bool:
        """Take a write to a port of theirs; False: not theirs."""
        ...

    def pending(self, vcpu: int) -> bool:
        """Tell whether an interrupt waits for this vCPU (it may still have them disabled)."""
        ...

    def acknowledge(self, vcpu: int) -> int | None:
        """Take the waiting interrupt: its vector. None: there is none after all."""
        ...

    def apic_read(self, vcpu: int, offset: int) -> int | None:
        """Read a register of this vCPU's local APIC; None: the model has no such register."""
        ...

    def apic_write(self, vcpu: int, offset: int, value: int) -> bool:
        """Write one; False: the model has no such register."""
        ...

    def takes_messages(self, vcpu: int) -> bool:
        """Tell whether this vCPU's local APIC is on."""
        ...

    def save_apic(self, vcpu: int) -> SavedApic | None:
        """Return the state of this vCPU's local APIC; None: as it was made."""
        ...

    def restore_apic(self, vcpu: int, saved: SavedApic | None) -> None:
        """Take what `save_apic` gave."""
        ...

    def next_event(self) -> float | None:
        """In how many seconds the timer raises its line next; None: it is not running."""
        ...

    def wait(self, seconds: float | None) -> None:
        """Until a line changes, `wake` is called, or the time is over; without the turn."""
        ...

    def wake(self) -> None:
        """End all `wait`."""
        ...


class VcpuServices(Protocol):
    """Services of the VM that a vCPU needs."""

    @property
    def memory(self) -> AddressSpace:
        """The guest-physical address space."""
        ...

    @property
    def posts(self) -> PortPosts:
        """The rules and the ring of posted port accesses."""
        ...

    @property
    def doorbells(self) -> Doorbells:
        """The doorbells."""
        ...

    @property
    def controllers(self) -> InterruptControllers | None:
        """The interrupt controllers; None without `create_irqchip`."""
        ...

    @property
    def hypercall_exits(self) -> int:
        """The mask of `Vm.enable_hypercall_exits`: 1 << hypercall number."""
        ...

    @property
    def disabled_exits(self) -> int:
        """The mask of `Vm.disable_exits`."""
        ...

    def convert(self, gpa: int, size: int, private: bool) -> bool:
        """`interface.FastConversions`, with the turn held: done here; False: an exit as usual."""
        ...

    def turn(self) -> AbstractContextManager[None]:
        """Hold the VM: its vCPUs never execute at the same time and take turns, fairly.

        What changes memory (a memslot, an attribute, a mapping that goes away) takes it too.
        """
        ...

    @property
    def turn_wanted(self) -> bool:
        """True while somebody waits for the turn: whoever executes gives it up soon."""
        ...
