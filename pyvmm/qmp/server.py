# SPDX-License-Identifier: MIT
"""The QMP server of one machine: a unix socket, and any number of clients one after the other.

::

    with open_listener(path) as listener:
        async with open_machine(config) as machine, serving(machine, listener):
            await machine.control.wait()

Nothing that a client does or leaves undone keeps the guest waiting: what it sends is limited by
`pyvmm.qmp.wire`, what waits for it by `pyvmm.qmp.outbox`, and how many there are by `MOST_CLIENTS`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from pyvmm.machine.accepting import accepted
from pyvmm.machine.ending import Requester
from pyvmm.machine.events import Ended, MachineEvent
from pyvmm.machine.machine import Machine
from pyvmm.machine.unix_listener import UnixListener
from pyvmm.qmp.client import Client
from pyvmm.qmp.command_table import commands
from pyvmm.qmp.event_names import QmpEvent, qmp_events, shutdown
from pyvmm.qmp.served import Served

MOST_CLIENTS: Final = 32
"""Clients that are served at once; more of them wait until one has gone."""
LAST_WORDS: Final = 1.0
"""Seconds that clients get, all together, to take their last messages when the guest has ended."""

_BACKLOG: Final = 128


def open_listener(path: Path) -> UnixListener:
    """The socket to be served later; clients may connect from now on."""
    return UnixListener(path, f"listen for QMP clients on {path}", backlog=_BACKLOG)


@asynccontextmanager
async def serving(
    machine: Machine, listener: UnixListener, *, holds_guest: bool = False
) -> AsyncIterator[None]:
    """Serve clients inside of the block. At its end they are told SHUTDOWN, and closed.

    `listener` stays the caller's. With `holds_guest` a machine that was made `paused` is let run
    when the first client has negotiated.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        server = _Server(machine, nursery, holds_guest=holds_guest)
        with machine.events.listen(server.hear):
            nursery.start_soon(server.accept, listener.socket, nursery)
            try:
                yield
            except BaseException as error:  # noqa: BLE001 - raised again, without a group
                failure = error
            server.tell_end()
            with trio.move_on_after(LAST_WORDS):
                await server.last_words()
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Server:
    """State that the clients of one machine share."""

    def __init__(self, machine: Machine, nursery: trio.Nursery, *, holds_guest: bool) -> None:
        self.commands = commands()
        self.served = Served(
            machine, self.commands, self._tell, nursery.start_soon, partial(_execute, machine)
        )
        self.one_at_a_time = trio.Lock()
        self._holds_guest = holds_guest
        self._clients: set[Client] = set()
        self._places = trio.Semaphore(MOST_CLIENTS)
        self._ended = False

    def hear(self, event: MachineEvent) -> None:
        """The machine's listener."""
        for one in qmp_events(event):
            self._tell(one)
        if isinstance(event, Ended):
            self._ended = True

    def tell_end(self) -> None:
        """Tell SHUTDOWN, unless that has been told: the run has failed."""
        if not self._ended:
            self._ended = True
            self._tell(shutdown(self.served.machine.control.ending))

    def _tell(self, event: QmpEvent) -> None:
        now = time.time()
        for client in tuple(self._clients):
            client.tell(event, now)

    def negotiated(self) -> None:
        """A client has negotiated."""
        if self._holds_guest:
            self._holds_guest = False
            self.served.machine.control.resume()

    async def accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        """Serve whoever connects, for ever."""
        listener.setblocking(False)
        while True:
            await self._places.acquire()
            connection = await accepted(listener)
            nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: socket.socket) -> None:
        client = Client(self, connection)
        self._clients.add(client)
        try:
            with connection:
                await client.serve()
        finally:
            self._clients.discard(client)
            self._places.release()

    async def last_words(self) -> None:
        """Wait until every client has its answers and events."""
        for client in tuple(self._clients):
            await client.settled()


async def _execute(machine: Machine, line: str, cpu: int) -> str:
    from pyvmm.machine.monitor.commands import execute  # Most clients never ask.

    return await execute(machine, line, cpu, Requester.QMP)
