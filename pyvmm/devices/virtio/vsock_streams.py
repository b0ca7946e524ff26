# SPDX-License-Identifier: MIT
"""Connections of a virtio socket device (virtio 1.2, section 5.10.6): states, and credit. Pure.

Each side tells the other how much room it has for a connection, and nobody sends more. A connection
of a guest that does, or that says what cannot be, is reset. Both buffers of a connection are of a
fixed size, and bytes have no packets any more there: many small ones cost what a large one does.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from pyvmm.devices.virtio.vsock import HOST_CID, Kind, Operation, Packet, Shutdown

LIMIT: Final = 1 << 16
"""Bytes of a connection that wait for the host, or for the guest."""
MOST_CREDIT: Final = 1 << 18
"""Bytes that the guest gets ahead of what it has read, however much room it says there is."""
MOST_STREAMS: Final = 256
MOST_REFUSALS: Final = 256
"""Resets that the driver has not taken, after which no packets of its own are looked at."""
FIRST_HOST_PORT: Final = 1 << 30
"""Ports of the host's end from here on are those of connections that begin there."""
_WORD: Final = 0xFFFF_FFFF
_BOTH: Final = Shutdown.RECEIVES | Shutdown.SENDS


class Ports(NamedTuple):
    """A connection's name."""

    host: int
    guest: int


class State(enum.Enum):
    """State of a connection."""

    REQUESTED = "requested"
    """The guest is asked."""
    OFFERED = "offered"
    """The host is asked."""
    OPEN = "open"
    CLOSED = "closed"


class Stream:
    """A connection. `on_change` is called whenever its host's end may go on."""

    def __init__(self, streams: Streams, ports: Ports, state: State) -> None:
        self.ports = ports
        self.state = state
        self.on_change: Callable[[], None] = _nothing
        self._streams = streams
        self._wishes = {Operation.REQUEST: None} if state is State.REQUESTED else {}
        self.is_known = state is State.OFFERED
        """False until the guest has heard of it."""
        self._from_guest = bytearray()
        self._to_guest = bytearray()
        self._guest_shutdown = Shutdown(0)
        self._host_shutdown = Shutdown(0)
        self._shutdown_said = Shutdown(0)
        # What came from the guest, is the host's, and what the guest knows of that.
        self._waiting = 0
        self._forwarded = 0
        self._told = 0
        # What the guest was sent, what of it it still holds, and how much it may.
        self._sent = 0
        self._in_flight = 0
        self._allocated = 0
        self._has_asked = False

    # -- the host's end --

    def accept(self) -> None:
        """The host has somebody for the guest's connection."""
        if self.state is State.OFFERED:
            self.state = State.OPEN
            self._wish(Operation.RESPONSE)

    def abort(self) -> None:
        """Reset the connection. What the guest has sent can still be taken."""
        if self.state is State.CLOSED:
            return
        if self.is_known:
            self._streams.refuse(self.ports)
        self.close()

    def close(self) -> None:
        """The connection is no more, on either side."""
        self.state = State.CLOSED
        self._to_guest.clear()
        self._streams.remove(self)
        self.on_change()

    @property
    def room(self) -> int:
        """Bytes that may be `put`."""
        return LIMIT - len(self._to_guest)

    @property
    def guest_receives(self) -> bool:
        """False when what is sent to the guest is lost."""
        return self.state is not State.CLOSED and Shutdown.RECEIVES not in self._guest_shutdown

    @property
    def guest_sends(self) -> bool:
        """False when nothing comes behind what can be taken."""
        return self.state is not State.CLOSED and Shutdown.SENDS not in self._guest_shutdown

    def put(self, data: bytes) -> None:
        """Send `data`, at most `room` bytes, to the guest."""
        assert len(data) <= self.room
        if self.guest_receives:
            self._to_guest += data
            self._streams.look_at(self)

    def end(self) -> None:
        """The host sends no more."""
        self._host_shutdown |= Shutdown.SENDS
        self._streams.look_at(self)

    def take(self) -> bytes:
        """Take what the guest has sent; say `forward` when it is where it belongs."""
        data = bytes(self._from_guest)
        self._from_guest.clear()
        return data

    def forward(self, size: int) -> None:
        """So many bytes more have left us: there is room for as many again."""
        self._waiting -= size
        self._forwarded += size
        if self.state is State.OPEN:
            if self._forwarded - self._told >= LIMIT // 2:
                self._wish(Operation.CREDIT_UPDATE)
            self._settle()

    # -- the guest's end --

    def take_packet(self, packet: Packet, data: bytes | None) -> bool:
        """Take a packet of the guest's; False: it cannot be, and is to be answered by a reset."""
        if data is None or not self._learn(packet):
            return False
        if self.state is State.REQUESTED and packet.operation == Operation.RESPONSE:
            if not self.is_known:
                return False
            self.state = State.OPEN
            self._streams.look_at(self)
            self.on_change()
            return True
        if self.state is not State.OPEN:
            return packet.operation in (Operation.CREDIT_UPDATE, Operation.CREDIT_REQUEST)
        return self._take_in_open(packet, data)

    def _take_in_open(self, packet: Packet, data: bytes) -> bool:
        match packet.operation:
            case Operation.DATA:
                if not self.guest_sends or self._waiting + len(data) > LIMIT:
                    return False
                self._from_guest += data
                self._waiting += len(data)
            case Operation.SHUTDOWN:
                self._guest_shutdown |= Shutdown(packet.flags & _BOTH)
                if not self.guest_receives:
                    self._to_guest.clear()
                self._settle()
            case Operation.CREDIT_UPDATE:
                pass
            case Operation.CREDIT_REQUEST:
                self._wish(Operation.CREDIT_UPDATE)
            case _:
                return False
        self._streams.look_at(self)
        self.on_change()
        return True

    def _learn(self, packet: Packet) -> bool:
        in_flight = self._sent - packet.forwarded & _WORD
        if in_flight > MOST_CREDIT:
            return False
        # Of two packets that have overtaken each other, the later number holds.
        self._in_flight = min(self._in_flight, in_flight)
        self._allocated = packet.allocated
        if self._credit:
            self._has_asked = False
        return True

    @property
    def _credit(self) -> int:
        return max(min(self._allocated, MOST_CREDIT) - self._in_flight, 0)

    def _settle(self) -> None:
        """A guest that has shut down both ways waits for a reset, when all it sent has arrived."""
        if self._guest_shutdown == _BOTH and not self._waiting:
            self.abort()

    # -- packets for the guest --

    def _wish(self, operation: Operation) -> None:
        self._wishes[operation] = None
        self._streams.look_at(self)

    def _next_operation(self) -> Operation | None:
        for operation in (Operation.REQUEST, Operation.RESPONSE):
            if operation in self._wishes:
                return operation
        if self.state is not State.OPEN:
            return None
        if self._to_guest and self._credit:
            return Operation.DATA
        if self._to_guest and not self._has_asked:
            return Operation.CREDIT_REQUEST
        if not self._to_guest and self._host_shutdown & ~self._shutdown_said:
            return Operation.SHUTDOWN
        return Operation.CREDIT_UPDATE if Operation.CREDIT_UPDATE in self._wishes else None

    @property
    def has_packet(self) -> bool:
        """True if there is a packet for the guest, and it may have it."""
        return self._next_operation() is not None

    def next_packet(self, room: int) -> bytes:
        """Take the next packet, with at most `room` bytes of data."""
        operation = self._next_operation()
        assert operation is not None
        data, flags = b"", 0
        if operation is Operation.DATA:
            size = min(room, self._credit, len(self._to_guest))
            data = bytes(self._to_guest[:size])
            del self._to_guest[:size]
            self._sent = self._sent + size & _WORD
            self._in_flight += size
            self.on_change()
        elif operation is Operation.SHUTDOWN:
            flags = int(self._host_shutdown)
            self._shutdown_said = self._host_shutdown
        elif operation is Operation.CREDIT_REQUEST:
            self._has_asked = True
        self.is_known = True
        self._wishes.pop(operation, None)
        # Every packet says it.
        self._wishes.pop(Operation.CREDIT_UPDATE, None)
        self._told = self._forwarded
        return self._streams.packet(self.ports, operation, data, flags, self._forwarded)


class Streams:
    """The connections of a guest. `on_request` is called with each that the guest asks for."""

    def __init__(self, guest_cid: int) -> None:
        self._guest_cid = guest_cid
        self.on_request: Callable[[Stream], None] = _refuse
        self._streams: dict[Ports, Stream] = {}
        # In the order in which they get their turn.
        self._ready: dict[Ports, Stream] = {}
        self._refusals: deque[bytes] = deque()
        self._next_port = FIRST_HOST_PORT

    def __len__(self) -> int:
        """Number of connections."""
        return len(self._streams)

    def clear(self) -> None:
        """No connection that the guest knows of is left, and no packet about one."""
        for stream in tuple(self._streams.values()):
            if stream.is_known:
                stream.close()
        self._refusals.clear()

    def connect(self, guest_port: int) -> Stream | None:
        """Ask the guest for a connection to one of its ports; None: there are too many."""
        if len(self._streams) >= MOST_STREAMS:
            return None
        while (ports := Ports(self._next_port, guest_port)) in self._streams:
            self._advance()
        self._advance()
        return self._add(Stream(self, ports, State.REQUESTED))

    def _advance(self) -> None:
        self._next_port = self._next_port + 1 if self._next_port + 1 < _WORD else FIRST_HOST_PORT

    def _add(self, stream: Stream) -> Stream:
        self._streams[stream.ports] = stream
        self.look_at(stream)
        return stream

    def take(self, packet: Packet, data: bytes | None) -> None:
        """Take a packet of the guest's, and its data; None: it does not have what it says.

        What there is no connection for is answered by a reset, which nothing ever answers.
        """
        is_ours = packet.source_cid == self._guest_cid and packet.target_cid == HOST_CID
        ports = Ports(packet.target_port, packet.source_port)
        stream = self._streams.get(ports) if is_ours and packet.kind == Kind.STREAM else None
        if packet.operation == Operation.RESET:
            if stream is not None:
                stream.close()
        elif stream is not None:
            if not stream.take_packet(packet, data):
                stream.abort()
        elif not (is_ours and packet.kind == Kind.STREAM) or not self._offer(packet, ports):
            self._refusals.append(
                Packet(
                    packet.target_cid, self._guest_cid, *ports, 0, packet.kind, Operation.RESET
                ).encoded()
            )

    def _offer(self, packet: Packet, ports: Ports) -> bool:
        if packet.operation != Operation.REQUEST or len(self._streams) >= MOST_STREAMS:
            return False
        stream = self._add(Stream(self, ports, State.OFFERED))
        if not stream.take_packet(packet._replace(operation=Operation.CREDIT_UPDATE), b""):
            stream.abort()
        else:
            self.on_request(stream)
        return True

    # -- packets for the guest --

    @property
    def waits_for_driver(self) -> bool:
        """True while so many resets wait for the driver that its own packets have to."""
        return len(self._refusals) >= MOST_REFUSALS

    @property
    def has_packet(self) -> bool:
        """True if there is a packet for the guest."""
        return bool(self._refusals or self._ready)

    def next_packet(self, room: int) -> bytes:
        """Take the next packet, with at most `room` bytes of data, more than 0; b"" for none."""
        if self._refusals:
            return self._refusals.popleft()
        if not self._ready:
            return b""
        stream = self._ready.pop(next(iter(self._ready)))
        packet = stream.next_packet(room)
        self.look_at(stream)
        return packet

    # -- for its streams --

    def look_at(self, stream: Stream) -> None:
        """Give a connection its turn where it has a packet."""
        if stream.state is not State.CLOSED and stream.has_packet:
            self._ready.setdefault(stream.ports, stream)
        elif self._ready.get(stream.ports) is stream:
            del self._ready[stream.ports]

    def remove(self, stream: Stream) -> None:
        """Forget a connection."""
        if self._streams.get(stream.ports) is stream:
            del self._streams[stream.ports]
        self.look_at(stream)

    def refuse(self, ports: Ports) -> None:
        """Reset a connection."""
        self._refusals.append(self.packet(ports, Operation.RESET))

    def packet(
        self,
        ports: Ports,
        operation: Operation,
        data: bytes = b"",
        flags: int = 0,
        forwarded: int = 0,
    ) -> bytes:
        """Make a packet."""
        header = Packet(
            HOST_CID, self._guest_cid, *ports, len(data), Kind.STREAM, operation, flags,
            LIMIT, forwarded & _WORD,
        )  # fmt: skip
        return header.encoded() + data


def _nothing() -> None:
    """Be no callback."""


def _refuse(stream: Stream) -> None:
    stream.abort()
