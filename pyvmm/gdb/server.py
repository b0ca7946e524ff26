# SPDX-License-Identifier: MIT
"""The stub's server of one machine: GDB connects, the guest stops, and does as it is told.

::

    with open_listener(place) as listener:
        async with open_machine(config) as machine, serving(machine, listener):
            await machine.control.wait()

One client at a time; the next waits. Broken packets end its connection, which lets a guest that was
running run on, without the breakpoints that were set over it.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio

from pyvmm.errors import PyvmmError
from pyvmm.gdb.machine_target import MachineTarget
from pyvmm.gdb.packets import BrokenPacketError, PacketReader, Signal, packet
from pyvmm.gdb.session import Session, told
from pyvmm.gdb.target import Leave, Run, Stop
from pyvmm.machine.accepting import accepted
from pyvmm.machine.ending import Requester
from pyvmm.machine.events import BreakpointHit, Ended, MachineEvent, Paused, Stepped
from pyvmm.machine.machine import Machine
from pyvmm.machine.steering import MachineState

LAST_WORDS: Final = 1.0
"""Seconds that the client gets to take its last packet when the guest has ended."""
_CHUNK: Final = 1 << 16


@asynccontextmanager
async def serving(machine: Machine, listener: socket.socket) -> AsyncIterator[None]:
    """Serve clients inside of the block; `listener` stays the caller's.

    A machine that was made `paused` waits until a client lets it run.
    """
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        server = _Server(machine)
        nursery.start_soon(server.accept, listener)
        nursery.start_soon(server.until_over)
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - raised again, without a group
            failure = error
        server.over.set()
        with trio.move_on_after(LAST_WORDS):
            await server.idle.wait()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


class _Server:
    def __init__(self, machine: Machine) -> None:
        self.over = trio.Event()
        """Set when the guest has ended."""
        self.idle = trio.Event()
        """Set while there is no client."""
        self._machine = machine
        self.idle.set()

    async def until_over(self) -> None:
        """Notice the end."""
        await self._machine.events.wait_for(Ended)
        self.over.set()

    async def accept(self, listener: socket.socket) -> None:
        """Serve whoever connects, one after the other, for ever."""
        listener.setblocking(False)
        while True:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(await accepted(listener)))
            self.idle = trio.Event()
            try:
                async with stream:
                    await _Connection(self._machine, stream, self.over).serve()
            finally:
                self.idle.set()


class _Connection:
    """One client."""

    def __init__(self, machine: Machine, stream: trio.SocketStream, over: trio.Event) -> None:
        self._machine = machine
        self._stream = stream
        self._over = over
        self._session = Session(MachineTarget(machine))
        self._last = b""
        self._give, self._items = trio.open_memory_channel[bytes | Signal](0)
        self._lets_run = False
        self._is_running = False
        """True until the client has been told why the guest runs no more."""
        self._untold: list[BreakpointHit] = []
        """Hits of other vCPUs at the last stop: a client is told of one at a time."""

    async def serve(self) -> None:
        """Until it leaves, breaks the protocol, or the guest ends."""
        async with trio.open_nursery() as nursery:

            async def until_over() -> None:
                await self._over.wait()
                if not self._is_running:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(self._receive)
            nursery.start_soon(until_over)
            try:
                await self._converse()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                with trio.CancelScope(shield=True):
                    await self._part()
                nursery.cancel_scope.cancel()

    async def _part(self) -> None:
        """Leave the machine without breakpoints of the client's, and as it goes on from here."""
        with suppress(PyvmmError):  # The guest may have ended.
            await self._session.end()
        if self._lets_run:
            self._machine.control.resume()

    async def _receive(self) -> None:
        """Hand over what comes, one at a time; none any more: the client is gone, or no client."""
        reader = PacketReader()
        async with self._give:
            with suppress(BrokenPacketError, trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await self._stream.receive_some(_CHUNK):
                    for item in reader.feed(data):
                        await self._give.send(item)

    async def _converse(self) -> None:
        async for item in self._items:
            if isinstance(item, Signal):
                if not await self._signalled(item):
                    return
            elif not await self._answer(item):
                return

    async def _signalled(self, signal: Signal) -> bool:
        """Take what is no packet, while the guest stands still; False: the connection is over."""
        if signal is Signal.RESEND:
            await self._stream.send_all(self._last)
        elif signal is Signal.DAMAGED:
            if not self._session.acknowledges:
                return False
            await self._stream.send_all(b"-")
        return True

    async def _answer(self, request: bytes) -> bool:
        """Answer a packet, and do what it wants; False: the connection is over."""
        if self._session.acknowledges:
            await self._stream.send_all(b"+")
        control = self._machine.control
        if control.state is MachineState.RUNNING:
            self._lets_run = True
            await control.pause()
        answer = await self._session.handle(request)
        for contents in answer.packets:
            await self._send(contents)
        if isinstance(answer.then, Run):
            self._lets_run = self._is_running = True
            goes_on = await self._run(answer.then)
            self._is_running = False
            return goes_on
        if answer.then is Leave.KILL:
            control.interrupt("killed by GDB", Requester.OWNER)
        elif answer.then is Leave.DETACH:
            self._lets_run = True
        return answer.then is None

    async def _send(self, contents: bytes) -> None:
        self._last = packet(contents)
        await self._stream.send_all(self._last)

    # -- while the guest runs --

    async def _run(self, run: Run) -> bool:
        """Let the guest run until it stops, and tell why; False: the connection is over."""
        for hit in self._untold:
            if hit.vcpu in run.running and hit.address in self._machine.control.breakpoints:
                self._untold.remove(hit)
                await self._send(self._session.stopped(Stop(hit.vcpu, hit.address)))
                return True
        self._untold.clear()
        stay = _Stay(self._machine)
        with self._machine.events.listen(stay.hear):
            await self._until_stop(run, stay)
        if stay.is_left:
            return False
        if stay.failure is not None:
            await self._send(told(stay.failure))
            return True
        if self._machine.control.ending is not None or self._over.is_set():
            await self._send(self._ending())
            return False
        stop, self._untold = stay.stop()
        await self._send(self._session.stopped(stop))
        return True

    def _ending(self) -> bytes:
        ending = self._machine.control.ending
        return b"X06" if ending is None else b"W%02x" % (ending.exit_code & 0xFF)

    async def _until_stop(self, run: Run, stay: _Stay) -> None:
        async with trio.open_nursery() as nursery:

            async def until_over() -> None:
                await self._over.wait()
                stay.over.set()

            nursery.start_soon(until_over)
            nursery.start_soon(self._listen, stay)
            if run.step is None:
                self._machine.control.resume(run.running)
            else:
                nursery.start_soon(stay.step, run.step, run.running)
            await stay.over.wait()
            nursery.cancel_scope.cancel()

    async def _listen(self, stay: _Stay) -> None:
        """Take Ctrl-C; any packet breaks the protocol."""
        async for item in self._items:
            if item is Signal.INTERRUPT:
                await self._machine.control.pause()
            elif item is Signal.RESEND:
                await self._stream.send_all(self._last)
            elif item is not Signal.ACKNOWLEDGED:
                break
        stay.is_left = True
        stay.over.set()


class _Stay:
    """The time that a guest runs for a client: what is heard of it, and its end."""

    def __init__(self, machine: Machine) -> None:
        self.over = trio.Event()
        self.is_left = False
        """True where the client has gone, or breaks the protocol."""
        self.failure: PyvmmError | None = None
        self._machine = machine
        self._heard: list[BreakpointHit | Stepped] = []

    def hear(self, event: MachineEvent) -> None:
        """The machine's listener."""
        if isinstance(event, BreakpointHit | Stepped):
            self._heard.append(event)
        elif isinstance(event, Paused | Ended):
            self.over.set()

    async def step(self, vcpu: int, running: Collection[int]) -> None:
        """Have one vCPU step and the others run."""
        try:
            await self._machine.control.step(vcpu, others=running)
        except PyvmmError as error:
            self.failure = error
        self.over.set()

    def stop(self) -> tuple[Stop, list[BreakpointHit]]:
        """The stop that the client is told of, and hits that it is told of at its next wish."""
        hits = [one for one in self._heard if isinstance(one, BreakpointHit)]
        if hits:
            return Stop(hits[0].vcpu, hits[0].address), hits[1:]
        for one in self._heard:
            return Stop(one.vcpu, one.address, stepped=True), []
        return Stop(), []
