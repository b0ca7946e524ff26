# SPDX-License-Identifier: MIT
"""A server in this process, and clients that speak HTTP and WebSocket byte by byte."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from pyvmm.demo.chapters import BOOK
from pyvmm.demo.house.here import ReadingHere
from pyvmm.demo.house.houses import Reading
from pyvmm.demo.telling.beginning import Telling
from pyvmm.demo.telling.outcomes import StageHost
from pyvmm.demo.web import connection, listener, visitors, websocket
from pyvmm.demo.web.admission import Role
from pyvmm.demo.web.site import Site

BOUND = 60.0
"""Seconds that a failure takes at most."""
LINKS = [f"{BOOK.chapters[0].id}/{step.id}" for step in BOOK.chapters[0].steps]
"""Places of the first chapter."""
TEXT, CONTINUED, CLOSE, PING, PONG = 1, 0, 8, 9, 10


may_end = trio.Event()
"""Set where stages may be freed at once; a test may put one here that is not."""
may_end.set()


said: list[str] = []
"""Sentences of the server that runs, for who started it."""


class _HousesHere:
    """Houses whose stages are in this process: what is tried here is not about them."""

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reading]:
        async with trio.open_nursery() as nursery:
            try:
                yield ReadingHere(nursery, StageHost.MODEL)
            finally:
                with trio.CancelScope(shield=True):
                    await may_end.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _open_houses(*_: object, **__: object) -> AsyncIterator[_HousesHere]:
    yield _HousesHere()


def run(main: Callable[[Server], Awaitable[None]], *, is_lecture: bool = False) -> None:
    """Run `main` beside a server, and see that nothing of either is left."""

    async def both() -> None:
        with trio.fail_after(BOUND):
            async with trio.open_nursery() as nursery:
                site = await nursery.start(_serve, is_lecture)
                await main(Server(site))
                nursery.cancel_scope.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener, "open_houses", _open_houses)
        patch.setattr(visitors, "GRACE", BOUND)
        patch.setattr(connection, "PATIENCE", BOUND)
        patch.setattr(websocket, "_GOODBYE", BOUND)
        trio.run(both)


async def _serve(is_lecture: bool, *, task_status: trio.TaskStatus[Site]) -> None:
    telling = Telling(BOOK, BOOK.chapters[0].id, wish=StageHost.MODEL)
    said.clear()
    await listener.serve(
        telling, 0, is_lecture=is_lecture, tell=task_status.started, say=said.append
    )


class Server:
    """The server, as clients know it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.origin = site.admission.origin
        self.port = int(self.origin.rpartition(":")[2])

    def token(self, role: Role = Role.READER) -> str:
        return self.site.admission.url(role).partition("#")[2]

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    def head(self, method: str, path: str, *headers: str) -> bytes:
        lines = (f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers, "", "")
        return "\r\n".join(lines).encode()

    async def ask(self, data: bytes) -> tuple[int, str, bytes]:
        """Status, head and body of the answer to a whole request."""
        async with await self.connect() as stream:
            await stream.send_all(data)
            answer = b"".join([part async for part in stream])
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode(), body

    async def enter(self, role: Role = Role.READER, token: str | None = None) -> str:
        """A cookie, as a header."""
        status, head, _ = await self.try_to_enter(role, token)
        assert status == 204
        (line,) = [one for one in head.split("\r\n") if one.startswith("Set-Cookie: ")]
        return line.removeprefix("Set-").partition(";")[0]

    async def try_to_enter(
        self, role: Role = Role.READER, token: str | None = None, *headers: str
    ) -> tuple[int, str, bytes]:
        body = (self.token(role) if token is None else token).encode()
        length = f"Content-Length: {len(body)}"
        head = self.head("POST", "/enter", f"Origin: {self.origin}", length, *headers)
        return await self.ask(head + body)

    def upgrade(self, *headers: str) -> bytes:
        return self.head(
            "GET", "/live", f"Origin: {self.origin}", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", *headers,
        )  # fmt: skip

    @asynccontextmanager
    async def tab(self, cookie: str, behind: bytes = b"") -> AsyncIterator[Tab]:
        """An open WebSocket; `behind` is sent right behind the upgrade."""
        async with await self.connect() as stream:
            await stream.send_all(self.upgrade(cookie) + behind)
            data = b""
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some()
                assert more
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 "), head
            yield Tab(stream, rest)

    async def until_visitors(self, count: int) -> None:
        while self.site.visitors != count:
            await trio.sleep(0.01)


def frame(kind: int, data: bytes, *, is_last: bool = True) -> bytes:
    """A frame of a client's, masked with nought."""
    size = len(data)
    head = bytes([kind | (0x80 if is_last else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return head + bytes(4) + data


class Tab:
    """A client's end of a WebSocket."""

    def __init__(self, stream: trio.SocketStream, data: bytes) -> None:
        self.stream = stream
        self._data = data
        self.number = 0
        self.parts: dict[str, str] = {}

    async def _take(self, size: int) -> bytes:
        while len(self._data) < size:
            more = await self.stream.receive_some(1 << 16)
            if not more:
                raise EOFError
            self._data += more
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    async def frame(self) -> tuple[int, bytes]:
        """Kind and data of the next frame. Raises `EOFError` behind the last."""
        first, second = await self._take(2)
        size = second & 0x7F
        if size >= 126:
            size = int.from_bytes(await self._take(2 if size == 126 else 8), "big")
        return first & 0xF, await self._take(size)

    async def message(self) -> dict[str, Any]:
        """The next message, beats left out; its parts are taken over."""
        while True:
            kind, data = await self.frame()
            assert kind in {TEXT, PING}, (kind, data)
            if kind == PING:
                await self.stream.send_all(frame(PONG, data))
                continue
            told: dict[str, Any] = json.loads(data)
            if "beat" in told:
                continue
            if "parts" in told:
                self.number = told["number"]
                if told["whole"]:
                    self.parts.clear()
                self.parts.update(told["parts"])
            return told

    async def until(self, name: str, value: str) -> None:
        """Wait until a part is this."""
        while self.parts.get(name) != value:
            await self.message()

    async def closed_with(self) -> int:
        """The code that the server closes with; everything before it is passed over."""
        while True:
            kind, data = await self.frame()
            if kind == CLOSE:
                return int.from_bytes(data[:2], "big")

    async def send(self, **wish: object) -> None:
        await self.stream.send_all(frame(TEXT, json.dumps(wish).encode()))

    def reset(self) -> None:
        reset(self.stream)


def reset(stream: trio.SocketStream) -> None:
    """Close a connection with a reset, as the kernel does for a process that is killed."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
