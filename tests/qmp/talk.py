# SPDX-License-Identifier: MIT
"""A plain QMP client for tests: bytes and JSON on a socket, nothing done for the caller."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import trio

from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.qmp.server import open_listener, serving
from tests.machine.guests import SPIN
from tests.qmp.guests import HANG


class Talk:
    """One client. What is no answer, it keeps as `events`."""

    def __init__(self, connection: trio.SocketStream) -> None:
        self.connection = connection
        self.events: list[dict[str, Any]] = []
        self._buffer = b""

    @classmethod
    async def connect(cls, path: Path) -> Self:
        """Connect; nothing is read."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        return cls(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))

    async def line(self) -> dict[str, Any] | None:
        """The next message; None at the end."""
        while b"\n" not in self._buffer:
            try:
                data = await self.connection.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                assert not self._buffer
                return None
            self._buffer += data
        first, self._buffer = self._buffer.split(b"\n", 1)
        assert first.endswith(b"\r")
        message: dict[str, Any] = json.loads(first)
        return message

    async def answer(self) -> dict[str, Any]:
        """The next message that is no event."""
        while True:
            message = await self.line()
            assert message is not None, "the server has closed the connection"
            if "event" not in message:
                return message
            self.events.append(message)

    async def rest(self) -> list[dict[str, Any]]:
        """Everything up to the end of the connection."""
        found = list(self.events)
        while (message := await self.line()) is not None:
            found.append(message)
        return found

    async def send(self, data: bytes) -> None:
        """Send as it is."""
        await self.connection.send_all(data)

    async def ask(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Give a command, take its answer."""
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        request = {"execute": name, "arguments": given, "id": name}
        await self.send(json.dumps(request).encode() + b"\n")
        answer = await self.answer()
        assert answer.pop("id") == name
        return answer

    async def ready(self) -> Self:
        """Take the greeting and negotiate."""
        greeting = await self.answer()
        assert set(greeting) == {"QMP"}
        assert await self.ask("qmp_capabilities") == {"return": {}}
        return self

    def close(self) -> None:
        """Hang up."""
        self.connection.socket.close()


@asynccontextmanager
async def talking(path: Path) -> AsyncIterator[Talk]:
    """A client that has negotiated."""
    talk = await Talk.connect(path)
    try:
        yield await talk.ready()
    finally:
        talk.close()


@asynccontextmanager
async def served(
    path: Path, *, image: bytes = SPIN, paused: bool = False, host: HostChoice = HostChoice.MODEL
) -> AsyncIterator[Machine]:
    """A machine with a server; its guest does nothing for ever."""
    config = MachineConfig(image, memory=4 * MIB, host=host)
    with trio.fail_after(HANG), open_listener(path) as listener:
        async with (
            open_machine(config, paused=paused) as machine,
            serving(machine, listener, holds_guest=paused),
        ):
            yield machine


def names(messages: list[dict[str, Any]]) -> list[str]:
    """The names of the events among `messages`."""
    return [message["event"] for message in messages if "event" in message]
