# SPDX-License-Identifier: MIT
"""One tab's WebSocket: frames by `websockets`' protocol without I/O, bytes by trio.

A tab that answers no ping, or takes no bytes for half a minute, is given up; one that sends a
message beyond the limit, or three that are no step, is closed with the code that says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Origin

from pyvmm.demo.web.admission import Head
from pyvmm.demo.web.messages import BEAT, MESSAGE_LIMIT

HEARTBEAT = 15.0
"""Seconds between two pings."""
STALLED = 30.0
"""Seconds within which a message has to be on its way, and a ping to be answered."""
_GOODBYE = 2.0
"""Seconds that the other side gets to close, too."""
_CHUNK = 16 << 10
_DATA = {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}


class WebSocket:
    """An open one, on a stream that its caller closes."""

    def __init__(self, stream: trio.SocketStream, origin: str) -> None:
        self._stream = stream
        self._protocol = ServerProtocol(origins=[Origin(origin)], max_size=MESSAGE_LIMIT)
        self._lock = trio.Lock()
        self._heard = trio.current_time()
        self._message = bytearray()
        self._out = bytearray()

    async def shake_hands(self, head: Head) -> bool:
        """Answer the upgrade; gives False where it has been refused."""
        lines = [f"{head.method} {head.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in head.headers]
        self._protocol.receive_data("\r\n".join((*lines, "", "")).encode("latin-1"))
        for request in self._protocol.events_received():
            assert isinstance(request, Request)
            self._protocol.send_response(self._protocol.accept(request))
        await self._flush()
        return self._protocol.state is State.OPEN

    async def send(self, text: str) -> None:
        """Send a message, unless goodbye has been said.

        Raises `trio.BrokenResourceError` where it cannot be sent in time.
        """
        async with self._lock:
            if self._protocol.state is State.OPEN:
                self._protocol.send_text(text.encode())
                await self._flush_locked()

    async def close(self, code: int, why: str) -> None:
        """Say goodbye, if the other side still listens; it gets a moment to do the same."""
        with trio.move_on_after(_GOODBYE):
            try:
                if self._protocol.state is State.OPEN:
                    self._protocol.send_close(code, why)
                async with self._lock:
                    await self._flush_locked()
                await self._stream.send_eof()
                # What is still on its way here would reset the connection, goodbye and all.
                while await self._stream.receive_some(_CHUNK):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def serve(self, first: bytes | bytearray, take: Callable[[str], Awaitable[None]]) -> None:
        """Hand over each message until the other side closes, breaks the rules, or is gone.

        `first` are bytes that came with the upgrade.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat, nursery.cancel_scope)
            try:
                await self._take(first, take)
                while not self._protocol.close_expected():
                    data = await self._stream.receive_some(_CHUNK)
                    if not data:
                        break
                    await self._take(data, take)
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

    async def _take(self, data: bytes | bytearray, take: Callable[[str], Awaitable[None]]) -> None:
        self._heard = trio.current_time()
        if data:
            self._protocol.receive_data(data)
        events = self._protocol.events_received()
        await self._flush()
        for frame in events:
            if isinstance(frame, Frame) and frame.opcode in _DATA:
                self._message += frame.data
                if frame.fin:
                    message, self._message = bytes(self._message), bytearray()
                    await take(message.decode("utf-8", "replace"))

    async def _beat(self, scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(HEARTBEAT)
            if trio.current_time() - self._heard > STALLED:
                scope.cancel()
            try:
                async with self._lock:
                    if self._protocol.state is not State.OPEN:
                        return
                    self._protocol.send_ping(b"")
                    self._protocol.send_text(BEAT.encode())
                    await self._flush_locked()
            except trio.BrokenResourceError:
                scope.cancel()

    async def _flush(self) -> None:
        async with self._lock:
            await self._flush_locked()

    async def _flush_locked(self) -> None:
        """Send what is to be sent; cancelled, the rest is kept, for a goodbye may follow."""
        self._out += b"".join(self._protocol.data_to_send())
        with trio.move_on_after(STALLED) as scope:
            while self._out:
                try:
                    sent = await self._stream.socket.send(bytes(self._out[:_CHUNK]))
                except OSError as error:
                    raise trio.BrokenResourceError from error
                del self._out[:sent]
        if scope.cancelled_caught:
            raise trio.BrokenResourceError
