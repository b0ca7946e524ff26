# SPDX-License-Identifier: MIT
"""Output on its way to a client."""

from __future__ import annotations

import socket
from typing import Final

import trio

LIMIT: Final = 1 << 20
"""Bytes that may wait for a client that does not read, beside one answer."""


class ClientGoneError(Exception):
    """The client has closed its end, or has been given up."""


class Outbox:
    """The way out to one client, whose non-blocking socket stays the caller's.

    Nearly always the socket takes everything at once; what it does not waits for `pump`.
    """

    def __init__(self, client: socket.socket) -> None:
        self._socket = client
        self._waiting = bytearray()
        self._filled = trio.Event()
        self._emptied = trio.Event()
        self._gone = False

    @property
    def waiting(self) -> int:
        """Bytes that the client has not taken."""
        return len(self._waiting)

    def put(self, data: bytes) -> None:
        """Send, now or later. To a client that is gone: nothing."""
        sent = 0 if self._waiting else self._send(data)
        if self._gone or sent == len(data):
            return
        if not self._waiting:
            self._emptied = trio.Event()
            self._filled.set()
        self._waiting += memoryview(data)[sent:]

    async def drained(self) -> None:
        """Wait until the client has taken everything. Raises `ClientGoneError`."""
        if self._waiting and not self._gone:
            await self._emptied.wait()
        if self._gone:
            raise ClientGoneError

    async def pump(self) -> None:
        """Send what waits, for ever. Returns when the client is gone."""
        while not self._gone:
            await self._filled.wait()
            while self._waiting and not self._gone:
                await trio.lowlevel.wait_writable(self._socket)
                del self._waiting[: self._send(self._waiting)]
            self._filled = trio.Event()
            self._emptied.set()

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._gone = True
            return 0
