# SPDX-License-Identifier: MIT
"""Switchboard of the lab's commands: passes frames between clients' connections and the one lab."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace

import trio

from pyvmm.errors import PyvmmError
from pyvmm.lab import failures, loaded_code
from pyvmm.lab.nested import Lab
from pyvmm.lab.protocol import Decoder, Frame, FrameType, ProtocolError, Request, StartFlag

_RECEIVE = 128 << 10
_LAST_WORDS_PATIENCE = 2.0
_LINGER = 1.0
"""Seconds that a shared lab stays up when nobody uses it any more."""
_PRELOADED = b"pyvmm.cli.preloaded"
_FINAL = {FrameType.EXITED, FrameType.REFUSED}


@dataclass(frozen=True, slots=True)
class _Command:
    """A command's way back to its client. Credits bound what can be waiting in it."""

    queue: trio.MemorySendChannel[Frame]
    ended: trio.Event


class Switchboard:
    """Serves clients' connections until the lab ends or `stop` is set."""

    def __init__(self, lab: Lab) -> None:
        self.stop = trio.Event()
        self._lab = lab
        self._commands: dict[int, _Command] = {}
        self._numbers = itertools.count(1)
        self._since = time.time()
        self._clients: set[trio.SocketStream] = set()
        self._client_left = trio.lowlevel.ParkingLot()
        self._preloaded = "no"
        self._loaded_code = b""
        self._restarting = False
        self._installed = loaded_code.installation_times()

    async def preload(self) -> None:
        """Start the process that forks for pyvmm commands, in the place of one that is there."""
        self._loaded_code = loaded_code.code_token()
        environment = os.environb
        token = self._loaded_code + b":" + loaded_code.environment_token(environment)
        from pyvmm.lab.preload import ROOM_FOR_TITLE

        request = Request(
            arguments=(
                os.fsencode(sys.executable), b"-m", _PRELOADED, ROOM_FOR_TITLE.encode()
            ),
            environment=tuple(key + b"=" + value for key, value in environment.items()),
            directory=b"/",
            token=token,
        )  # fmt: skip
        self._preloaded = "loading"
        self._restarting = True
        await self._lab.send(Frame(FrameType.PRELOAD, payload=request.encode()))

    async def listen_to_lab(self) -> PyvmmError:
        """Pass on what comes from the lab, until its channel is lost; why it was."""
        async for frame in self._lab.frames():
            if frame.type == FrameType.PRELOADED:
                self._note_preloaded(frame.words()[0] != 0)
                continue
            command = self._commands.get(frame.channel)
            if command is None:
                continue
            if frame.type in _FINAL:
                del self._commands[frame.channel]
                command.ended.set()
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                command.queue.send_nowait(frame)
            if frame.type in _FINAL:
                command.queue.close()
        return await self._lab.lost("run a command in the lab")

    def _note_preloaded(self, is_ready: bool) -> None:
        # A restart first reports that the old one has gone.
        if is_ready:
            self._preloaded = "ready"
            self._restarting = False
        elif not self._restarting:
            self._preloaded = "no"

    async def fail(self, error: PyvmmError) -> None:
        """Tell every client that the lab has ended, and why."""
        frame = Frame(FrameType.FAILED, payload=failures.to_bytes(error)).encode()
        with trio.CancelScope(deadline=trio.current_time() + _LAST_WORDS_PATIENCE, shield=True):
            for client in self._clients:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await client.send_all(frame)

    async def serve(self, client: trio.SocketStream) -> None:
        """One connection, until it ends: a command, a question, or the word to end the lab."""
        decoder = Decoder()
        self._clients.add(client)
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError):
                first, rest = await _first_frame(client, decoder)
                if first is None:
                    return
                if first.type == FrameType.START:
                    await self._run(client, decoder, first, rest)
                elif first.type == FrameType.STATUS:
                    await client.send_all(Frame(FrameType.STATUS, payload=self._status()).encode())
                elif first.type == FrameType.DOWN:
                    # The client waits for the end of the connection. A copy of it stays open until
                    # this process ends, and that is after QEMU has ended.
                    os.dup(client.socket.fileno())
                    self.stop.set()
        finally:
            self._clients.discard(client)
            self._client_left.unpark_all()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(client)

    async def stop_when_unused(self, starter: trio.SocketStream) -> None:
        """Set `stop` when `starter` has gone, and all clients have."""
        with suppress(trio.BrokenResourceError):
            while await starter.receive_some(_RECEIVE):
                pass
        while True:
            while self._clients:
                await self._client_left.park()
            # Who has just been told that there is a lab comes now.
            await trio.sleep(_LINGER)
            if not self._clients:
                break
        self.stop.set()

    async def _run(
        self, client: trio.SocketStream, decoder: Decoder, first: Frame, rest: list[Frame]
    ) -> None:
        channel = next(self._numbers)
        sender, receiver = trio.open_memory_channel[Frame](float("inf"))
        command = _Command(sender, trio.Event())
        self._commands[channel] = command
        await self._forget_if_changed()
        await self._renew_preloaded(first)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._to_client, client, receiver, nursery.cancel_scope)
                for frame in (first, *rest):
                    await self._lab.send(replace(frame, channel=channel))
                while data := await client.receive_some(_RECEIVE):
                    for frame in decoder.feed(bytes(data)):
                        await self._lab.send(replace(frame, channel=channel))
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, ProtocolError):
            pass
        finally:
            receiver.close()
            if not command.ended.is_set():
                with trio.CancelScope(
                    deadline=trio.current_time() + _LAST_WORDS_PATIENCE, shield=True
                ):
                    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                        await self._lab.send(Frame(FrameType.HANGUP, channel=channel))

    async def _to_client(
        self,
        client: trio.SocketStream,
        receiver: trio.MemoryReceiveChannel[Frame],
        scope: trio.CancelScope,
    ) -> None:
        async for frame in receiver:
            await client.send_all(frame.encode())
        scope.cancel()

    async def _forget_if_changed(self) -> None:
        """Have the lab look anew at the cached folders if something was installed into them."""
        installed = loaded_code.installation_times()
        if installed != self._installed:
            self._installed = installed
            await self._lab.send(Frame(FrameType.FORGET))

    async def _renew_preloaded(self, start: Frame) -> None:
        """Have the preloaded process load again what has changed since it did."""
        if self._preloaded == "no" or not self._loaded_code:
            return
        request = Request.decode(start.payload)
        code = request.token.partition(b":")[0]
        if StartFlag.MAY_FORK not in request.flags or code == self._loaded_code:
            return
        if code == loaded_code.code_token():
            await self.preload()

    def _status(self) -> bytes:
        hello, monitor, settings = self._lab.hello, self._lab.monitor, self._lab.settings
        assert hello is not None
        assert monitor is not None
        return json.dumps(
            {
                "pid": os.getpid(),
                "monitor": settings.monitor,
                "qemu_pid": monitor.pid,
                "since": self._since,
                "kernel": settings.kernel,
                "release": hello.release,
                "cpus": settings.cpus,
                "memory": settings.memory,
                "writable": settings.writable,
                "commands": len(self._commands),
                "preloaded": self._preloaded,
                "log": str(self._lab.log.path),
            }
        ).encode()


async def _first_frame(
    client: trio.SocketStream, decoder: Decoder
) -> tuple[Frame | None, list[Frame]]:
    while data := await client.receive_some(_RECEIVE):
        frames = list(decoder.feed(bytes(data)))
        if frames:
            return frames[0], frames[1:]
    return None, []
