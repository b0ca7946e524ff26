# SPDX-License-Identifier: MIT
"""A client of the stub that says exactly what it is told to."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

import pyvmm
from pyvmm.gdb.packets import PacketReader, Signal, packet
from pyvmm.gdb.server import serving
from pyvmm.gdb.tcp_listener import listening_at


class Client:
    """One connection to a stub."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._reader = PacketReader()
        self._come: list[bytes | Signal] = []

    async def ask(self, request: bytes) -> bytes:
        """Send a packet, and give the next that comes."""
        await self.say(request)
        return await self.hear()

    async def say(self, request: bytes) -> None:
        """Send a packet."""
        await self.stream.send_all(packet(request))

    async def hear(self) -> bytes:
        """The next packet; acknowledgements are passed over. Fails at the connection's end."""
        while True:
            item = await self.item()
            assert item is not None, "the stub has closed the connection"
            if isinstance(item, bytes):
                return item

    async def item(self) -> bytes | Signal | None:
        """What comes next, acknowledgements too; None: the end."""
        while not self._come:
            try:
                data = await self.stream.receive_some(1 << 16)
            except trio.BrokenResourceError:
                return None
            if not data:
                return None
            self._come += self._reader.feed(data)
        return self._come.pop(0)

    async def ends(self) -> bool:
        """Wait for the end of the connection; True where nothing but acknowledgements came."""
        while (item := await self.item()) is not None:
            if isinstance(item, bytes):
                return False
        return True


@asynccontextmanager
async def connected(listener: socket.socket) -> AsyncIterator[Client]:
    """A client of the stub that listens there."""
    host, port = listener.getsockname()
    async with await trio.open_tcp_stream(host, port) as stream:
        yield Client(stream)


@asynccontextmanager
async def debugged(
    config: pyvmm.MachineConfig, *, paused: bool = True
) -> AsyncIterator[tuple[pyvmm.Machine, socket.socket]]:
    """A machine with a stub, and where the stub listens."""
    with listening_at("127.0.0.1", 0) as listener:
        async with (
            pyvmm.open_machine(config, paused=paused) as machine,
            serving(machine, listener),
        ):
            yield machine, listener
