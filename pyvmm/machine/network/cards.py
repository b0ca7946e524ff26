# SPDX-License-Identifier: MIT
"""Network cards of one machine: which there are, their links, and what is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pyvmm.errors import UsageError
from pyvmm.machine.events import CaptureFailed, LinkChanged, NetworkEnded, ReceiveFilterChanged
from pyvmm.machine.hardware import NetCard, TapNet, UserNet
from pyvmm.machine.virtio.net import NetHandler
from pyvmm.net.capture import CaptureWire
from pyvmm.net.passt import PasstWire
from pyvmm.net.taps import TapWire

if TYPE_CHECKING:
    from pyvmm.devices.virtio.net_filter import Accepts
    from pyvmm.machine.events import Audience
    from pyvmm.machine.virtio.queue_handler import VirtioDevice
    from pyvmm.net.frames import Wire


class CardState(NamedTuple):
    """A network card at some moment.

    `mac` has 6 bytes, `mtu` is in bytes where the guest is told one. `wire` says in words what the
    card is connected to; `ended` why it is no more; `capture_failure` why its frames are no more
    written to a file.
    """

    name: str
    mac: bytes
    mtu: int | None
    wire: str
    is_link_up: bool
    ended: str | None
    capture_failure: CaptureFailed | None


class FilterState(NamedTuple):
    """Frames that a guest wants to get by a card, at some moment (virtio 1.2, 5.1.6.5.1 to 3).

    `accepts` are kinds that are taken, or not, whatever the tables say; addresses have 6 bytes;
    `vlans` of None are all.
    """

    mac: bytes
    accepts: Accepts
    unicast: tuple[bytes, ...]
    multicast: tuple[bytes, ...]
    vlans: frozenset[int] | None


class MachineCard:
    """A card, for those who made it."""

    def __init__(self, choice: NetCard, wire: Wire, device: VirtioDevice) -> None:
        assert isinstance(device.handler, NetHandler)
        self.name = device.name
        self.choice = choice
        self.handler = device.handler
        self.capture = wire.file if isinstance(wire, CaptureWire) else None
        self.tells_filter = True
        """True where the next change of the filter is told."""
        self._words = _words(choice, wire)
        if self.handler.has_vhost:
            self._words += ", by vhost-net"

    def state(self) -> CardState:
        """State now."""
        model, ended = self.handler.model, self.handler.ended
        return CardState(
            self.name,
            model.mac,
            model.mtu,
            self._words,
            model.is_link_up,
            ended,
            self.capture_failure,
        )

    @property
    def capture_failure(self) -> CaptureFailed | None:
        """Failure of its capture; None: it has not failed, or there is none."""
        error = None if self.capture is None else self.capture.failure
        return None if error is None else self.failure(error)

    def failure(self, error: OSError) -> CaptureFailed:
        """Describe what has become of its capture."""
        assert self.choice.capture is not None
        return CaptureFailed(self.name, self.choice.capture, error.strerror or str(error))


class MachineCards:
    """All network cards of one machine. In its trio thread; `attach` comes before any is served."""

    def __init__(self) -> None:
        self._cards: list[MachineCard] = []
        self._audience: Audience | None = None

    def add(self, choice: NetCard, wire: Wire, device: VirtioDevice) -> None:
        """Add a card that was made of these."""
        card = MachineCard(choice, wire, device)
        card.handler.on_end = lambda reason: self._tell(NetworkEnded(card.name, reason))
        card.handler.on_filter_change = lambda: self._filter_changed(card)
        card.handler.on_link_change = lambda up: self._tell(LinkChanged(card.name, up))
        if card.capture is not None:
            card.capture.on_failure = lambda error: self._tell(card.failure(error))
        self._cards.append(card)

    def attach(self, audience: Audience) -> None:
        """Tell `audience` of changes from now on."""
        self._audience = audience

    def states(self) -> tuple[CardState, ...]:
        """State of each now."""
        return tuple(card.state() for card in self._cards)

    def find(self, name: str) -> CardState | None:
        """State of the card of that name, which may be written without its space."""
        card = self._find(name)
        return None if card is None else card.state()

    def set_link(self, name: str, attempt: str, *, up: bool) -> None:
        """Set the link of a card. Raises `UsageError`."""
        card = self._find(name)
        if card is None:
            names = ", ".join(card.name for card in self._cards)
            raise UsageError(attempt, "there is no such network card", f"there are {names}")
        if up and card.handler.ended is not None:
            cause = f"its network has ended ({card.handler.ended})"
            raise UsageError(attempt, cause, "start the machine again")
        card.handler.set_link(up=up)

    def receive_filter(self, name: str) -> FilterState | None:
        """State of a card's filter, whose next change is told; None: there is no such card."""
        card = self._find(name)
        if card is None:
            return None
        card.tells_filter = True
        model = card.handler.model
        rules = model.filter
        return FilterState(model.mac, rules.accepts, rules.unicast, rules.multicast, rules.vlans)

    def _filter_changed(self, card: MachineCard) -> None:
        if card.tells_filter:
            card.tells_filter = False
            self._tell(ReceiveFilterChanged(card.name))

    def _find(self, name: str) -> MachineCard | None:
        cards = self._cards
        return next((one for one in cards if name in (one.name, one.name.replace(" ", ""))), None)

    def _tell(
        self, event: LinkChanged | ReceiveFilterChanged | NetworkEnded | CaptureFailed
    ) -> None:
        if self._audience is not None:
            self._audience.tell(event)


def _words(choice: NetCard, wire: Wire) -> str:
    """Words on the other end, in the manner of QEMU's ``info network``."""
    inner = wire.inner if isinstance(wire, CaptureWire) else wire
    parts = ["type=user" if isinstance(choice.wire, UserNet) else "type=tap"]
    if isinstance(inner, PasstWire):
        parts.append(f"passt={inner.pid}")
    if isinstance(inner, TapWire):
        parts.append(f"ifname={inner.name}")
    match choice.wire:
        case UserNet(forwards):
            parts.extend(f"hostfwd={forward}" for forward in forwards)
        case TapNet():
            parts.extend(
                f"{name}={value}"
                for name, value in (("br", choice.wire.bridge), ("netns", choice.wire.netns))
                if value is not None
            )
    if choice.capture is not None:
        parts.append(f"pcap={choice.capture}")
    return ",".join(parts)
