# SPDX-License-Identifier: MIT
"""One client of the QMP server, from its greeting to its last answer."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol

import trio

from pyvmm.errors import PyvmmError
from pyvmm.qmp.command import Command, CommandError, ErrorClass
from pyvmm.qmp.control_commands import version
from pyvmm.qmp.event_names import QmpEvent
from pyvmm.qmp.outbox import LIMIT, ClientGoneError, Outbox
from pyvmm.qmp.served import Served
from pyvmm.qmp.session import Answer, Call, Session
from pyvmm.qmp.wire import encode

FAREWELL: Final = 1.0
"""Seconds that a client which has ended its input gets to take what it asked for."""

_READ_SIZE: Final = 65536
_LEFT_READS: Final = 32


class Server(Protocol):
    """State that clients of one machine share."""

    served: Served
    commands: Mapping[str, Command]
    one_at_a_time: trio.Lock

    def negotiated(self) -> None:
        """A client has negotiated."""


class Client:
    """Serves one connected, non-blocking socket, which stays the caller's."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self._server = server
        self._socket = connection
        self._session = Session(version(), server.commands)
        self._outbox = Outbox(connection)
        self._scope = trio.CancelScope()
        self._negotiated = False
        self._settled = trio.Event()
        self._settled.set()

    async def serve(self) -> None:
        """Until the client goes, or is given up because it does not read."""
        with self._scope, suppress(ClientGoneError, OSError):
            self._outbox.put(self._session.greeting())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._outbox.pump)
                with suppress(ClientGoneError, OSError):
                    await self._receive_or_tell()
                    with trio.move_on_after(FAREWELL):
                        await self._outbox.drained()
                nursery.cancel_scope.cancel()
        self._forget_unread()

    def tell(self, event: QmpEvent, now: float) -> None:
        """Send an event of `now`, in seconds since the epoch."""
        answer = self._session.event(event.name, event.data, now)
        if answer is None:
            return
        if self._outbox.waiting + len(answer.data) > LIMIT:
            self._scope.cancel()
        else:
            self._outbox.put(answer.data)

    async def settled(self) -> None:
        """Wait until everything that has been read is answered, and the answers are taken."""
        await self._settled.wait()
        with suppress(ClientGoneError):
            await self._outbox.drained()

    async def _receive_or_tell(self) -> None:
        """As `_receive`; a defect of pyvmm's ends this client's session, and not the run."""
        try:
            await self._receive()
        except (ClientGoneError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - told to the client: the guest goes on
            told = {
                "class": ErrorClass.GENERIC_ERROR.value,
                "desc": f"a defect of pyvmm: {error!r}",
            }
            self._outbox.put(encode({"error": told}))

    async def _receive(self) -> None:
        """Until the client ends its input. Raises `ClientGoneError` or `OSError`."""
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            data = self._socket.recv(_READ_SIZE)
            if not data:
                return
            self._settled = trio.Event()
            try:
                self._session.feed(data)
                await self._answer_all()
            finally:
                self._settled.set()

    async def _answer_all(self) -> None:
        session, outbox = self._session, self._outbox
        first = True
        while (found := session.next()) is not None:
            if not first:
                await trio.lowlevel.checkpoint()
            first = False
            answer = found if isinstance(found, Answer) else await self._carry_out(found)
            outbox.put(answer.data)
            if not self._negotiated and session.is_negotiated:
                self._negotiated = True
                self._server.negotiated()
            if outbox.waiting:
                # Who does not read its answers is asked nothing more.
                await outbox.drained()

    async def _carry_out(self, call: Call) -> Answer:
        name, run = call.command.name, call.command.run
        served, lock = self._server.served, self._server.one_at_a_time
        try:
            if _may_come_between(name):
                value = await run(served, call.arguments)
            else:
                async with lock:
                    value = await run(served, call.arguments)
            return self._session.result(call, value)
        except CommandError as error:
            return self._session.failure(call, error)
        except PyvmmError as error:
            return self._session.failure(call, CommandError(str(error)))
        except Exception as error:  # noqa: BLE001 - told to the client: the guest goes on
            defect = CommandError(f"a defect of pyvmm in {name}: {error!r}")
            return self._session.failure(call, defect)

    def _forget_unread(self) -> None:
        """Closed with something unread, a socket tells the other end of an error."""
        with suppress(OSError):
            for _ in range(_LEFT_READS):
                if not self._socket.recv(_READ_SIZE):
                    return


def _may_come_between(name: str) -> bool:
    """Tell whether a command need not wait for those of other clients that take long."""
    return "query-" in name or name == "quit"
