# SPDX-License-Identifier: MIT
"""The host's end of a port of the virtio console: a socket that a program connects to."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable

import trio

from pyvmm.errors import UsageError
from pyvmm.hosts.owner import Owner
from pyvmm.machine.hardware import PortChoice
from pyvmm.machine.unix_listener import UnixListener

LIMIT = 1 << 16
"""Bytes on their way in one direction, after which the side that sends waits."""


def _nothing() -> None:
    """Be no callback."""


class PortEnd(Owner):
    """Owns the listener of a port, or a duplicate of the socket that it was given.

    One program at a time; others wait to be accepted. `on_input`, `on_room` and `on_connected`
    are called in the trio thread: there is more for the guest, it may say more, somebody has come
    or gone. Raises what `UnixListener` raises, and `UsageError` for a descriptor of no socket.
    """

    def __init__(self, choice: PortChoice) -> None:
        self.name = choice.name
        self._listener: UnixListener | None = None
        self._given: socket.socket | None = None
        attempt = f"make the port {choice.name}"
        if choice.path is not None:
            self._listener = UnixListener(choice.path, attempt)
        elif choice.fd is not None:
            self._given = _duplicate(choice.fd, attempt)
        else:
            raise UsageError(attempt, "it has no host side", "give the path of a socket")
        self.is_connected = False
        self.on_input: Callable[[], None] = _nothing
        self.on_room: Callable[[], None] = _nothing
        self.on_connected: Callable[[], None] = _nothing
        self._to_guest = bytearray()
        self._from_guest = bytearray()
        self._changed = trio.Event()

    def close(self) -> None:
        """Listen no more. Idempotent."""
        for owned in (self._listener, self._given):
            if owned is not None:
                owned.close()

    # -- the guest's side --

    @property
    def has_input(self) -> bool:
        """True if there is something for the guest."""
        return bool(self._to_guest)

    @property
    def has_room(self) -> bool:
        """True if the guest may say more."""
        return len(self._from_guest) < LIMIT

    def take(self, size: int) -> bytes:
        """Take at most `size` bytes for the guest."""
        data = bytes(self._to_guest[:size])
        del self._to_guest[:size]
        self._change()
        return data

    def put(self, data: bytes) -> None:
        """Say `data` for the guest. Where nobody listens it is lost."""
        if self.is_connected:
            self._from_guest += data
            self._change()

    def drop_input(self) -> None:
        """Forget what the guest has not read: no program has the port open any more."""
        self._to_guest.clear()
        self._change()

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- the world's side --

    async def serve(self) -> None:
        """Pass bytes on until cancelled, or until who gave the socket has left."""
        if self._given is not None:
            await self._converse(trio.SocketStream(trio.socket.from_stdlib_socket(self._given)))
            return
        assert self._listener is not None
        listener = trio.socket.from_stdlib_socket(self._listener.socket)
        while True:
            connection, _ = await listener.accept()
            await self._converse(trio.SocketStream(connection))

    async def _converse(self, stream: trio.SocketStream) -> None:
        self._from_guest.clear()
        self._set_connected(True)
        try:
            async with stream:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, stream, nursery.cancel_scope)
                    await self._receive(stream)
                    nursery.cancel_scope.cancel()
            # What was said before the end is read before it is seen.
            while self._to_guest:
                await self._changed.wait()
        finally:
            self._set_connected(False)

    def _set_connected(self, connected: bool) -> None:
        self.is_connected = connected
        self.on_connected()
        self.on_room()

    async def _receive(self, stream: trio.SocketStream) -> None:
        while True:
            while len(self._to_guest) >= LIMIT:
                await self._changed.wait()
            try:
                data = await stream.receive_some(LIMIT)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            self._to_guest += data
            self.on_input()

    async def _send(self, stream: trio.SocketStream, scope: trio.CancelScope) -> None:
        while True:
            while not self._from_guest:
                await self._changed.wait()
            data = bytes(self._from_guest)
            try:
                await stream.send_all(data)
            except trio.BrokenResourceError:
                self._from_guest.clear()
                scope.cancel()
                return
            del self._from_guest[: len(data)]
            self.on_room()


def _duplicate(fd: int, attempt: str) -> socket.socket:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError as error:
        raise UsageError(attempt, f"descriptor {fd} is not open", "give one that is") from error
    if not is_socket:
        raise UsageError(attempt, f"descriptor {fd} is no socket", "give one of a socket pair")
    return socket.socket(fileno=os.dup(fd))
