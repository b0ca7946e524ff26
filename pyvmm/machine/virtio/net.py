# SPDX-License-Identifier: MIT
"""A virtio network device in a machine: frames between its queues and a wire (`pyvmm.net.frames`).

A frame that the driver has no buffers for stays in the wire, which has room for so many and drops
the others; one that was taken out already is kept, for each queue one. So nothing of a guest's or a
network's makes anything grow here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from pyvmm.devices.virtio.net import NetModel, Role, receive_queue, transmit_queue
from pyvmm.devices.virtio.net_control import FILTER_CLASSES, MOST_CONTROL, OK, perform
from pyvmm.devices.virtio.net_features import LEAST_MTU, MOST_MTU, NetFeature, is_card_address
from pyvmm.devices.virtio.net_header import MOST_FRAME
from pyvmm.errors import UsageError
from pyvmm.hosts.queue_engine import NetQueue
from pyvmm.machine.hardware import NetCard
from pyvmm.machine.loop_calls import call_soon
from pyvmm.machine.virtio.net_pair import NetPair
from pyvmm.machine.virtio.plain_net import PlainFrames
from pyvmm.machine.virtio.queue_handler import BoundChain, VirtioDevice
from pyvmm.net.frames import NO_OFFLOADS, Offload, Wire, WireEndedError
from pyvmm.net.offloads import features_of, sent_of, wanted_of

if TYPE_CHECKING:
    from pyvmm.machine.virtio.vhost_engine import VhostQueue
    from pyvmm.net.vhost import VhostNet

OWN_MAC: Final = b"\x02pyvm"
"""First bytes of an address of this project's choosing: one that is administered locally."""


def net_device(
    card: NetCard, wire: Wire, number: int, vhost: Sequence[VhostNet] = ()
) -> VirtioDevice:
    """Make the network card of that number, with `wire`, which stays its owner's.

    `vhost` are devices of the kernel's, one for each pair of queues, that are to move its frames.
    Raises `UsageError` for an address or an MTU that cannot be.
    """
    name = f"net {number}"
    mtu = wire.mtu if card.mtu is None else card.mtu
    if mtu is not None and not LEAST_MTU <= mtu <= MOST_MTU:
        raise UsageError(f"make {name}", f"its MTU is {mtu}", f"give {LEAST_MTU} to {MOST_MTU}")
    if mtu is not None and wire.mtu is not None and mtu > wire.mtu:
        raise UsageError(
            f"make {name} with an MTU of {mtu}",
            f"what it is connected to takes packets of at most {wire.mtu} bytes",
            "give both the same",
        )
    model = NetModel(
        _address(card, number),
        mtu=mtu,
        offloads=features_of(wire.offloads),
        pairs=len(wire.queues),
    )
    return VirtioDevice(name, model, NetHandler(model, wire, vhost, name))


def _address(card: NetCard, number: int) -> bytes:
    mac = OWN_MAC + bytes([number & 0xFF]) if card.mac is None else card.mac
    if not is_card_address(mac):
        raise UsageError(
            f"give net {number} the address {mac.hex(':')}",
            "that is no address of one card",
            f"give six bytes, the first of them even, such as {OWN_MAC.hex(':')}:01",
        )
    return mac


class NetHandler:
    """Moves frames between the queues and a wire. In the trio thread."""

    def __init__(
        self, model: NetModel, wire: Wire, vhost: Sequence[VhostNet] = (), name: str = "a card"
    ) -> None:
        self.model = model
        self.wire = wire
        self.on_ready: Callable[[int], None]
        self.on_config_change: Callable[[], None]
        self._vhost = vhost
        self._name = name
        self._token: trio.lowlevel.TrioToken | None = None
        self.pairs = tuple(NetPair(model, line, self._end) for line in wire.queues)
        self.ended: str | None = None
        """The reason why the wire has ended, in words; None while it has not."""
        self.on_end: Callable[[str], None] = _unheard
        self.on_link_change: Callable[[bool], None] = _unheard
        self.on_filter_change: Callable[[], None] = lambda: None
        self._seen = (-1, -1)
        self._wanted = NO_OFFLOADS
        self._used = len(wire.queues)

    def set_link(self, *, up: bool) -> None:
        """Have the driver told that there is a link, or none: no frame goes either way then.

        A wire that has ended has none any more.
        """
        up = up and self.ended is None
        if up == self.model.is_link_up:
            return
        if up:
            for pair in self.pairs:
                pair.drop_waiting()
        self.model.is_link_up = up
        self.on_config_change()
        self._wake_all()
        self.on_link_change(up)

    @property
    def has_vhost(self) -> bool:
        """True where the host's kernel moves its frames while there is a link."""
        return bool(self._vhost)

    # -- for the queues --

    def plain_work(self, queue: int) -> VhostQueue | PlainFrames | None:
        """The kernel's part of a queue, or an engine's, while there is a link and it is a tap's.

        None: all of it is done here.
        """
        model = self.model
        pair, ring = divmod(queue, 2)
        taps = self.wire.descriptors
        if pair >= min(len(taps), model.pairs) or not model.is_link_up:
            return None
        if pair < len(self._vhost):
            from pyvmm.machine.virtio.vhost_engine import VhostQueue

            return VhostQueue(
                self._vhost[pair], ring, taps[pair], model.accepted, self._name, self._tap_gone
            )
        if model.role(queue) is Role.TRANSMIT:
            offloads = sent_of(model.negotiated)
            return PlainFrames(
                NetQueue(taps[pair], receives=False, most=model.longest, offloads=int(offloads))
            )
        offloads = wanted_of(model.offloads)
        return PlainFrames(
            NetQueue(
                taps[pair],
                receives=True,
                most=MOST_FRAME if offloads & ~Offload.CHECKSUM else model.longest,
                offloads=int(offloads),
                merges=bool(model.negotiated & NetFeature.MRG_RXBUF),
            )
        )

    def is_ready(self, queue: int) -> bool:
        """Tell whether there is a frame for the driver, or room for one of its."""
        role = self.model.role(queue)
        if role is None or role is Role.CONTROL:
            return role is not None
        pair = self.pairs[queue // 2]
        if role is Role.TRANSMIT:
            return pair.has_room
        return pair.has_frame and self.model.is_link_up

    async def handle(self, queue: int, chain: BoundChain) -> int:
        """Fill a chain for the driver, or take a frame or a command of its. Raises `ValueError` for
        a chain that is none for that, and `NotNowError` where there is nothing to be done."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._take_up()
        role, number = self.model.role(queue), queue // 2
        if role is Role.CONTROL:
            return self._control(chain)
        if role is Role.TRANSMIT:
            self.pairs[number].send(chain, is_used=number < self.model.pairs)
            return 0
        return await self.pairs[number].receive(chain, lambda: self.on_ready(queue))

    def _control(self, chain: BoundChain) -> int:
        size = sum(map(len, chain.readable))
        if not chain.writable or size > MOST_CONTROL:
            raise ValueError("it is no command")
        request = b"".join(chain.readable)
        chain.writable[0][:1] = answer = perform(self.model, request)
        self._take_up()
        if answer == OK and request[0] in FILTER_CLASSES:
            self.on_filter_change()
        return 1

    # -- beside them --

    async def serve(self) -> None:
        """Wait for the wire, and tell it what the driver wants."""
        self._token = trio.lowlevel.current_trio_token()
        self.model.on_change = self._model_changed
        self._look()
        async with trio.open_nursery() as nursery:
            for number, pair in enumerate(self.pairs):
                pair.on_frame = _waking(self, receive_queue(number))
                pair.on_room = _waking(self, transmit_queue(number))
                nursery.start_soon(pair.wait_for_frames)
                nursery.start_soon(pair.wait_for_room)

    def _model_changed(self) -> None:
        """Any thread: the driver resets, and the machine restores, in any."""
        call_soon(self._token, self._look)

    def _look(self) -> None:
        self._take_up()
        if self.model.has_restored:
            self.model.has_restored = False
            self.on_config_change()
        self._wake_all()

    def _wake_all(self) -> None:
        for queue in range(len(self.model.queue_sizes)):
            self.on_ready(queue)

    def _take_up(self) -> None:
        """Have the wire do what the driver wants."""
        model = self.model
        now = (model.resets, model.changes)
        if now == self._seen:
            return
        if now[0] != self._seen[0]:
            for pair in self.pairs:
                pair.forget()
        self._seen = now
        wanted = wanted_of(model.offloads)
        try:
            if wanted != self._wanted:
                self.wire.receive_with(wanted)
            if model.pairs != self._used:
                self.wire.use_queues(model.pairs)
        except OSError as error:
            self._end(WireEndedError(error.strerror))
            return
        self._wanted, self._used = wanted, model.pairs
        for number, pair in enumerate(self.pairs):
            pair.use(used=number < model.pairs)
        # Who serves which queue, and how, is found out anew.
        self._wake_all()

    def _tap_gone(self) -> None:
        self._end(WireEndedError("the tap has been removed"))

    def _end(self, error: WireEndedError) -> None:
        if self.ended is not None:
            return
        self.ended = str(error) or "its other end has gone"
        self.on_end(self.ended)
        self.set_link(up=False)


def _unheard(_: object) -> None:
    """Be a callback that nobody has set."""


def _waking(handler: NetHandler, queue: int) -> Callable[[], None]:
    return lambda: handler.on_ready(queue)
