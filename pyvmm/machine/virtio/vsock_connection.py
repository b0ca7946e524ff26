# SPDX-License-Identifier: MIT
"""The host's end of a connection of a virtio socket device: a Unix socket with a program behind."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import trio

from pyvmm.devices.virtio.vsock_streams import State, Stream


class VsockConnection:
    """Moves bytes between a `Stream` and a program's socket; `on_packets` is called when there may
    be packets for the guest."""

    def __init__(self, stream: Stream, on_packets: Callable[[], None]) -> None:
        self._stream = stream
        self._on_packets = on_packets
        self._changed = trio.Event()
        stream.on_change = self._change

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def changed(self) -> None:
        """Wait for the stream to change."""
        await self._changed.wait()

    async def converse(self, host: trio.SocketStream) -> None:
        """Pass bytes on until either end is gone. A connection that is not over then is reset."""
        stream = self._stream
        try:
            if stream.state is State.OPEN:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._to_guest, host)
                    await self._from_guest(host)
                    nursery.cancel_scope.cancel()
        finally:
            stream.abort()
            self._on_packets()

    async def _to_guest(self, host: trio.SocketStream) -> None:
        stream = self._stream
        while True:
            while not stream.room and stream.guest_receives:
                await self.changed()
            try:
                data = await host.receive_some(stream.room or 1)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                stream.end()
                self._on_packets()
                return
            stream.put(data)
            self._on_packets()

    async def _from_guest(self, host: trio.SocketStream) -> None:
        stream = self._stream
        said_end = said_deaf = False
        while True:
            if data := stream.take():
                try:
                    await host.send_all(data)
                except trio.BrokenResourceError:
                    return
                stream.forward(len(data))
                self._on_packets()
                continue
            if stream.state is State.CLOSED:
                return
            with suppress(OSError, trio.BrokenResourceError):
                if not stream.guest_sends and not said_end:
                    said_end = True
                    await host.send_eof()
                    continue
                if not stream.guest_receives and not said_deaf:
                    said_deaf = True
                    host.socket.shutdown(socket.SHUT_RD)
            await self.changed()
