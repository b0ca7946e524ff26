# SPDX-License-Identifier: MIT
"""A virtio network device in a machine: frames between its queues and a wire (`pyvmm.net.frames`).

A frame that the driver has no buffers for stays in the wire, which has room for so many and drops
the others; nothing of a guest's makes anything grow here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import trio

from pyvmm.devices.virtio.buffers import put, split
from pyvmm.devices.virtio.net import (
    LEAST_MTU,
    MAC_SIZE,
    MOST_MTU,
    NetModel,
    receive_queue,
    transmit_queue,
)
from pyvmm.devices.virtio.net_header import (
    COUNT_OFFSET,
    ETHERNET,
    HEADER_SIZE,
    MOST_FRAME,
    FrameHeader,
)
from pyvmm.errors import UsageError
from pyvmm.hosts.queue_engine import NetQueue
from pyvmm.machine.hardware import NetCard
from pyvmm.machine.virtio.plain_net import PlainFrames
from pyvmm.machine.virtio.queue_handler import BoundChain, NotNowError, VirtioDevice
from pyvmm.net.frames import NO_OFFLOADS, Wire, WireEndedError

if TYPE_CHECKING:
    from pyvmm.machine.virtio.vhost_engine import VhostQueue
    from pyvmm.net.vhost import VhostNet

OWN_MAC: Final = b"\x02pyvm"
"""First bytes of an address of this project's choosing: one that is administered locally."""
VLAN: Final = 4
"""Bytes that a VLAN's tag adds to a frame."""
_MULTICAST: Final = 1
_ONE: Final = struct.pack("<H", 1)
_PLAIN: Final = FrameHeader().encoded()


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
    model = NetModel(_address(card, number), mtu=mtu)
    return VirtioDevice(name, model, NetHandler(model, wire, vhost, name))


def _address(card: NetCard, number: int) -> bytes:
    mac = OWN_MAC + bytes([number & 0xFF]) if card.mac is None else card.mac
    if len(mac) != MAC_SIZE or not any(mac) or mac[0] & _MULTICAST:
        raise UsageError(
            f"give net {number} the address {mac.hex(':')}",
            "that is no address of one card",
            f"give six bytes, the first of them even, such as {OWN_MAC.hex(':')}:01",
        )
    return mac


class NetHandler:
    """Moves frames between the queues and a wire. In the trio thread."""

    on_ready: Callable[[int], None]
    on_config_change: Callable[[], None]

    def __init__(
        self, model: NetModel, wire: Wire, vhost: Sequence[VhostNet] = (), name: str = "a card"
    ) -> None:
        self.model = model
        self.wire = wire
        self._vhost = vhost
        self._name = name
        self._lines = tuple(wire.queues)
        self._has_input = [False] * len(self._lines)
        self._has_room = [True] * len(self._lines)
        self._changed = [trio.Event() for _ in self._lines]
        self.ended: str | None = None
        """The reason why the wire has ended, in words; None while it has not."""
        self.on_end: Callable[[str], None] = _unheard
        self.on_link_change: Callable[[bool], None] = _unheard
        self._scratch = memoryview(bytearray(HEADER_SIZE + MOST_FRAME))
        """For what a chain has no room for."""

    def set_link(self, *, up: bool) -> None:
        """Have the driver told that there is a link, or none: no frame goes either way then.

        A wire that has ended has none any more.
        """
        up = up and self.ended is None
        if up != self.model.is_link_up:
            self.model.is_link_up = up
            self.on_config_change()
            self._look()
            self.on_link_change(up)

    # -- for the queues --

    def plain_work(self, queue: int) -> VhostQueue | PlainFrames | None:
        """The kernel's part of a queue, or an engine's, while there is a link and it is a tap's.

        None: all of it is done here.
        """
        pair, ring = divmod(queue, 2)
        taps = self.wire.descriptors
        if pair >= len(taps) or not self.model.is_link_up:
            return None
        if pair < len(self._vhost):
            from pyvmm.machine.virtio.vhost_engine import VhostQueue

            return VhostQueue(self._vhost[pair], ring, taps[pair], self.model.accepted, self._name)
        most = ETHERNET + VLAN + (MOST_MTU if self.model.mtu is None else self.model.mtu)
        return PlainFrames(NetQueue(taps[pair], receives=queue == receive_queue(pair), most=most))

    def is_ready(self, queue: int) -> bool:
        """Tell whether there is a frame for the driver, or room for one of its."""
        pair = queue // 2
        if queue == receive_queue(pair):
            return self._has_input[pair] and self.model.is_link_up
        return self._has_room[pair]

    async def handle(self, queue: int, chain: BoundChain) -> int:
        """Fill a chain for the driver, or take a frame of its. Raises `ValueError` for a chain
        that is none for a frame, and `NotNowError` where there is nothing to be done."""
        await trio.lowlevel.checkpoint_if_cancelled()
        pair = queue // 2
        if queue == receive_queue(pair):
            return await self._receive(pair, chain)
        self._send(pair, chain)
        return 0

    async def _receive(self, pair: int, chain: BoundChain) -> int:
        room = sum(map(len, chain.writable))
        if chain.readable or room <= HEADER_SIZE:
            raise ValueError("it has no room for a frame")
        views = [*chain.writable, self._scratch]
        while self.model.is_link_up:
            try:
                size = self._lines[pair].receive(views)
            except BlockingIOError:
                self._has_input[pair] = False
                self._change(pair)
                break
            except WireEndedError as error:
                self._end(error)
                break
            if HEADER_SIZE + ETHERNET <= size <= room:
                _put_count(chain.writable)
                return size
            await trio.lowlevel.checkpoint()  # Dropped; others have their turn.
        raise NotNowError

    def _send(self, pair: int, chain: BoundChain) -> None:
        header, frame = split(chain.readable, HEADER_SIZE)
        size = sum(map(len, frame))
        if chain.writable or len(header) < HEADER_SIZE or not ETHERNET <= size <= MOST_FRAME:
            raise ValueError("it has no frame")
        if not self.model.is_link_up:
            return
        try:
            self._lines[pair].send([memoryview(_PLAIN), *frame])
        except BlockingIOError:
            self._has_room[pair] = False
            self._change(pair)
            raise NotNowError from None
        except WireEndedError as error:
            self._end(error)

    # -- beside them --

    async def serve(self) -> None:
        """Wait for the wire."""
        self.wire.receive_with(NO_OFFLOADS)
        async with trio.open_nursery() as nursery:
            for pair in range(len(self._lines)):
                nursery.start_soon(self._wait_for_input, pair)
                nursery.start_soon(self._wait_for_room, pair)

    async def _wait_for_input(self, pair: int) -> None:
        while self.ended is None:
            # What is not taken is not waited for: it would be there at once, again and again.
            while self._has_input[pair]:
                await self._changed[pair].wait()
            await trio.lowlevel.wait_readable(self._lines[pair].fileno())
            self._has_input[pair] = True
            self.on_ready(receive_queue(pair))

    async def _wait_for_room(self, pair: int) -> None:
        while self.ended is None:
            while self._has_room[pair]:
                await self._changed[pair].wait()
            await trio.lowlevel.wait_writable(self._lines[pair].fileno())
            self._has_room[pair] = True
            self.on_ready(transmit_queue(pair))

    def _change(self, pair: int) -> None:
        self._changed[pair].set()
        self._changed[pair] = trio.Event()

    def _look(self) -> None:
        for queue in range(len(self.model.queue_sizes)):
            self.on_ready(queue)

    def _end(self, error: WireEndedError) -> None:
        if self.ended is not None:
            return
        self.ended = str(error) or "its other end has gone"
        self.on_end(self.ended)
        self._has_room = [True] * len(self._lines)
        self.set_link(up=False)


def _put_count(views: Sequence[memoryview]) -> None:
    """Say in a header that one chain has the frame."""
    first = views[0]
    if len(first) >= HEADER_SIZE:
        first[COUNT_OFFSET:HEADER_SIZE] = _ONE
        return
    head, _ = split(views, COUNT_OFFSET)
    put(views, head + _ONE)


def _unheard(_: object) -> None:
    """Be a callback that nobody has set."""
