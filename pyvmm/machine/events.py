# SPDX-License-Identifier: MIT
"""Events that a machine sends to its listeners: a closed set, and who listens."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import trio

from pyvmm.machine.ending import Ending

if TYPE_CHECKING:
    from pathlib import Path

    from pyvmm.machine.implicit import FaultRefused


@dataclass(frozen=True, slots=True)
class Paused:
    """Every vCPU has stopped because somebody asked for it."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The vCPUs run on, after `Paused`. A machine that was opened paused begins untold."""


@dataclass(frozen=True, slots=True)
class BreakpointHit:
    """vCPU `vcpu` is before the instruction at the linear `address`; told after `Paused`."""

    vcpu: int
    address: int


class Stepped(NamedTuple):
    """vCPU `vcpu` has made a step, to before what is at the linear `address`; after `Paused`."""

    vcpu: int
    address: int


class WasReset(NamedTuple):
    """The machine has been put back to its start: from outside, or because the guest asked."""

    by_guest: bool = False


@dataclass(frozen=True, slots=True)
class PowerdownAsked:
    """Somebody pressed the power button. Our machines have none that a guest could see."""


class AccessRefused(NamedTuple):
    """vCPU `vcpu` touched memory that nothing gives it; the run ends."""

    vcpu: int
    fault: FaultRefused


class DiskFailed(NamedTuple):
    """The host could not do a request of the disk named `disk`: `operation` is read or write.

    `errno` is the kernel's number. Where it `stops`, the machine is paused for it, and the request
    is tried again when it is resumed; otherwise the guest was given an I/O error.
    """

    disk: str
    operation: str
    errno: int
    stops: bool

    @property
    def reason(self) -> str:
        """The number in words."""
        return os.strerror(self.errno)


class LinkChanged(NamedTuple):
    """The guest has been told that the network card named `card` has a link, or none."""

    card: str
    is_up: bool


class ReceiveFilterChanged(NamedTuple):
    """The guest wants other frames of the network card named `card` than before.

    Told once until somebody has asked which (`MachineNetwork.receive_filter`).
    """

    card: str


class NetworkEnded(NamedTuple):
    """The other end of the wire of the card named `card` has gone, and does not come back."""

    card: str
    reason: str


class CaptureFailed(NamedTuple):
    """The file that frames of the card named `card` are written to takes no more of them."""

    card: str
    path: Path
    reason: str


class Ended(NamedTuple):
    """No vCPU runs any more."""

    ending: Ending


MachineEvent: TypeAlias = (
    Paused
    | Resumed
    | BreakpointHit
    | Stepped
    | WasReset
    | PowerdownAsked
    | DiskFailed
    | LinkChanged
    | ReceiveFilterChanged
    | NetworkEnded
    | CaptureFailed
    | AccessRefused
    | Ended
)
Listener: TypeAlias = Callable[[MachineEvent], None]
"""Called in the machine's trio thread; does not wait and does not raise."""

E = TypeVar(
    "E", Paused, Resumed, BreakpointHit, Stepped, WasReset, PowerdownAsked, DiskFailed, LinkChanged,
    ReceiveFilterChanged, NetworkEnded, CaptureFailed, AccessRefused, Ended,
)  # fmt: skip


class Audience:
    """Everybody who listens to one machine. In its trio thread."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.last: Ended | None = None
        self.over = trio.Event()

    def tell(self, event: MachineEvent) -> None:
        """Tell all of them."""
        if isinstance(event, Ended):
            self.last = event
        for listener in tuple(self.listeners):
            listener(event)

    def close(self) -> None:
        """Nothing more comes, whether an end was told or the run has failed."""
        self.over.set()


class Events:
    """Events of a machine, as they come."""

    def __init__(self, audience: Audience) -> None:
        self._audience = audience

    @contextmanager
    def listen(self, listener: Listener) -> Iterator[None]:
        """Have `listener` called with each event inside of the block.

        It is called in the machine's own thread, and neither waits nor raises.
        """
        self._audience.listeners.append(listener)
        try:
            yield
        finally:
            self._audience.listeners.remove(listener)

    async def wait_for(self, kind: type[E]) -> E | None:
        """Wait for the next event of `kind`; None where the run is over and none will come.

        `Ended` is told to whoever asks later, too.
        """
        heard: list[E] = []
        some = trio.Event()

        def hear(event: MachineEvent) -> None:
            if isinstance(event, kind):
                heard.append(event)
            if heard or isinstance(event, Ended):
                some.set()

        audience = self._audience
        if isinstance(audience.last, kind):
            await trio.lowlevel.checkpoint()
            return audience.last
        with self.listen(hear):
            async with trio.open_nursery() as nursery:

                async def until_over() -> None:
                    await audience.over.wait()
                    some.set()

                nursery.start_soon(until_over)
                await some.wait()
                nursery.cancel_scope.cancel()
        return heard[0] if heard else None
