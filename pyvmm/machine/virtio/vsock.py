# SPDX-License-Identifier: MIT
"""A virtio socket device in a machine: the guest's sockets, and Unix sockets of the host's.

As with Firecracker, a program of the host's connects to the socket at the device's path, says
``CONNECT port`` and a line feed, and gets ``OK host-port``; a guest that connects to a port of the
host's reaches who listens at the path with ``_port`` behind it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import trio

from pyvmm.devices.virtio.buffers import put
from pyvmm.devices.virtio.vsock import (
    EVENTS,
    FIRST_CID,
    HEADER_SIZE,
    MOST_CID,
    RECEIVE,
    TRANSMIT,
    VsockModel,
    parse_packet,
)
from pyvmm.devices.virtio.vsock_streams import State, Stream, Streams
from pyvmm.errors import UsageError
from pyvmm.machine.hardware import Vsock
from pyvmm.machine.loop_calls import call_soon
from pyvmm.machine.unix_listener import UnixListener
from pyvmm.machine.virtio.queue_handler import BoundChain, NotNowError, VirtioDevice
from pyvmm.machine.virtio.vsock_connection import VsockConnection

NAME = "virtio vsock"
MOST_PATH = 96
"""Bytes of a path that leave room for a port's number in a socket's."""
MOST_CONNECTIONS = 64
PATIENCE = 30.0
"""Seconds for a program of the host's to say which port, and for the guest to answer."""
_MOST_GREETING = 32
_PORTS = 1 << 32
_PAUSE = 0.1
"""Seconds until the next program is let in, where a connection could not be."""


def vsock_device(choice: Vsock, stack: ExitStack) -> VirtioDevice:
    """Make a socket device; `stack` gets the listener of its host's side.

    Raises `UsageError` for a context ID or a path that cannot be, and what `UnixListener` raises.
    """
    attempt = f"make sockets between guest {choice.cid} and host at {choice.path}"
    if not FIRST_CID <= choice.cid <= MOST_CID:
        raise UsageError(
            attempt, f"a guest's context ID is {FIRST_CID} to {MOST_CID}", "give one of these"
        )
    if len(os.fsencode(choice.path)) > MOST_PATH:
        raise UsageError(
            attempt,
            f"the path is too long: at most {MOST_PATH} bytes, so that ports fit behind it",
            "choose a shorter one, or one relative to the working directory",
        )
    listener = stack.enter_context(UnixListener(choice.path, attempt, backlog=MOST_CONNECTIONS))
    model = VsockModel(choice.cid)
    return VirtioDevice(NAME, model, VsockHandler(model, listener.socket, choice.path))


class VsockHandler:
    """Moves packets between the queues and the connections; in the trio thread.

    `listener` stays its owner's.
    """

    def __init__(self, model: VsockModel, listener: socket.socket, path: Path) -> None:
        self._model = model
        self._listener = listener
        self._path = path
        self._streams = Streams(model.guest_cid)
        self._streams.on_request = self._requested
        self._resets = model.resets
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._ended = trio.Event()
        self.connections = 0
        """Programs of the host's that are connected, or about to be."""
        self.on_ready: Callable[[int], None]
        self.on_config_change: Callable[[], None]

    # -- for the queues --

    def is_ready(self, queue: int) -> bool:
        """Tell whether there is something for the driver, or room for what that says."""
        self._take_up()
        if queue == RECEIVE:
            return not self._model.is_gated and self._streams.has_packet
        if queue == TRANSMIT:
            return self._nursery is not None and not self._streams.waits_for_driver
        return self._model.has_event

    async def handle(self, queue: int, chain: BoundChain) -> int:
        """Fill a chain for the driver, or take a packet of its. Raises `ValueError` for a chain
        that is too short."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._take_up()
        if queue == TRANSMIT:
            self._streams.take(*parse_packet(chain.readable))
            self._go_on()
            return 0
        room = sum(map(len, chain.writable))
        if queue == EVENTS:
            if room < 4:
                raise ValueError("it has no room for an event")
            data = self._model.next_event()
        else:
            if room <= HEADER_SIZE:
                raise ValueError("it has no room for a packet")
            data = self._streams.next_packet(room - HEADER_SIZE)
            self.on_ready(TRANSMIT)
        if not data:
            raise NotNowError
        return put(chain.writable, data)

    def _take_up(self) -> None:
        """End all connections where the driver has reset, or the machine has been restored."""
        if self._resets != self._model.resets:
            self._resets = self._model.resets
            self._streams.clear()

    def _go_on(self) -> None:
        self.on_ready(RECEIVE)

    def _look(self) -> None:
        self._take_up()
        for queue in (RECEIVE, TRANSMIT, EVENTS):
            self.on_ready(queue)

    def _model_changed(self) -> None:
        """Any thread: the driver resets, and the machine restores, in any."""
        call_soon(self._token, self._look)

    # -- for the host's programs --

    async def serve(self) -> None:
        """Let programs connect to the guest, and the guest to programs."""
        self._token = trio.lowlevel.current_trio_token()
        self._model.on_change = self._model_changed
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                self._look()
                await self._listen(nursery)
            finally:
                self._nursery = None

    async def _listen(self, nursery: trio.Nursery) -> None:
        listener = trio.socket.from_stdlib_socket(self._listener)
        while True:
            while self.connections >= MOST_CONNECTIONS:
                await self._ended.wait()
            try:
                connection, _ = await listener.accept()
            except OSError:  # It has left, or there are no descriptors.
                await trio.sleep(_PAUSE)
                continue
            self.connections += 1
            nursery.start_soon(self._connect, trio.SocketStream(connection))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Have the connection counted, until it ends, by who has begun it."""
        try:
            yield
        finally:
            self.connections -= 1
            self._ended.set()
            self._ended = trio.Event()

    async def _connect(self, host: trio.SocketStream) -> None:
        """Connect a program of the host's to the port that it names."""
        with self._counted():
            async with host:
                await self._serve_program(host)

    async def _serve_program(self, host: trio.SocketStream) -> None:
        port = None
        with trio.move_on_after(PATIENCE):
            port = await _greeting(host)
        stream = None if port is None else self._streams.connect(port)
        if stream is None:
            return
        connection = VsockConnection(stream, self._go_on)
        self._go_on()
        with suppress(trio.BrokenResourceError):
            with trio.move_on_after(PATIENCE):
                while stream.state is State.REQUESTED:
                    await connection.changed()
            if stream.state is State.OPEN:
                await host.send_all(b"OK %d\n" % stream.ports.host)
        await connection.converse(host)

    def _requested(self, stream: Stream) -> None:
        if self._nursery is None or self.connections >= MOST_CONNECTIONS:
            stream.abort()
            return
        self.connections += 1
        self._nursery.start_soon(self._reach, stream)

    async def _reach(self, stream: Stream) -> None:
        """Connect the guest to who listens for the port that it asks for."""
        connection = VsockConnection(stream, self._go_on)
        with self._counted():
            try:
                host = await trio.open_unix_socket(f"{self._path}_{stream.ports.host}")
            except OSError:
                stream.abort()
                self._go_on()
                return
            async with host:
                stream.accept()
                self._go_on()
                await connection.converse(host)


async def _greeting(host: trio.SocketStream) -> int | None:
    """Read which port a program wants; None: it does not say."""
    said = b""
    # What is behind the line is for the guest: no byte of it may be read here.
    while not said.endswith(b"\n"):
        try:
            byte = await host.receive_some(1)
        except trio.BrokenResourceError:
            return None
        if not byte or len(said) >= _MOST_GREETING:
            return None
        said += byte
    word, _, number = said.strip().partition(b" ")
    number = number.strip()
    if word.upper() != b"CONNECT" or not number.isdigit() or int(number) >= _PORTS - 1:
        return None
    return int(number)
