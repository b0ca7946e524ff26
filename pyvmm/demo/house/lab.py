# SPDX-License-Identifier: MIT
"""Stages' processes in a lab: the same process, over a connection to the lab's keeper."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import trio

import pyvmm
from pyvmm.demo.house.client import Patience, StageClient
from pyvmm.demo.telling.chapter import Need, StageKind
from pyvmm.errors import PyvmmError
from pyvmm.lab import failures, loaded_code, starting
from pyvmm.lab.protocol import (
    DATA_MAX,
    WINDOW,
    Decoder,
    Frame,
    FrameType,
    Request,
    StartFlag,
    Stream,
    credit,
)
from pyvmm.lab.settings import LabWishes

MOST_IN_LAB = 6
"""Stages at once: a lab has two emulated CPUs and 2 GiB."""
STAGE_COMMAND = ("demo", "--stage-process")
"""The pyvmm command that is the process: the lab forks a loaded one for it."""
_LOST = "the lab was lost"
_RECEIVE = 64 << 10
_TAIL = 2048


class LabHouse:
    """The lab that stages are opened in: one that is up, or one that is started for them."""

    def __init__(self, say: Callable[[str], object]) -> None:
        """`say` is told how the start of a lab goes, in sentences."""
        self.stages = 0
        self.lost = ""
        """Reason that the lab was lost, once it was."""
        self.lacking: dict[tuple[StageKind, tuple[str, ...], frozenset[Need]], str] = {}
        """Stages of such designs and needs that its kernel cannot have, and why."""
        self._say = say
        self._starter: socket.socket | None = None

    def is_up(self) -> bool:
        """True if there is a lab to be had at once; waits for nothing."""
        connection = starting.connect(waits=False)
        if connection is None:
            return False
        connection.close()
        return True

    def close(self) -> None:
        """Let go of the lab; one that was started for us ends then. A second call does nothing."""
        if self._starter is not None:
            self._starter.close()
            self._starter = None

    @asynccontextmanager
    async def process(self, patience: Patience) -> AsyncIterator[StageClient]:
        """A process of stages in the lab; behind the block it has ended, or the lab ends it.

        Raises what starting a lab raises.
        """
        self.stages += 1
        try:
            connection = await self._connection()
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
            process = _LabProcess(stream, patience)
            async with trio.open_nursery() as nursery:
                try:
                    nursery.start_soon(process.listen)
                    await process.start()
                    yield process.client
                finally:
                    with trio.CancelScope(shield=True):
                        await process.end()
                        await trio.aclose_forcefully(stream)
                    if process.client.lost.startswith(_LOST):
                        self.lost = process.client.lost
                    nursery.cancel_scope.cancel()
        finally:
            self.stages -= 1

    async def _connection(self) -> socket.socket:
        taking = _Taking()
        if self._starter is None and not self.is_up():
            self._say("starting a lab, which takes some seconds")
        try:
            connection, starter = await trio.to_thread.run_sync(taking.take, abandon_on_cancel=True)
        except BaseException:
            taking.give_up()
            raise
        if starter is not None:
            self.close()
            self._starter = starter
            self._say("the lab is up; now the stage is loaded there")
        return connection


class _Taking:
    """A connection that is taken on another thread, and closed where nobody wants it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = False
        self._taken: list[socket.socket] = []

    def take(self) -> tuple[socket.socket, socket.socket | None]:
        connection, starter = starting.connect(), None
        if connection is None:
            connection, starter = starting.share(LabWishes().settings())
        with self._lock:
            self._taken = [connection] if starter is None else [connection, starter]
            if self._given_up:
                self._close()
        return connection, starter

    def give_up(self) -> None:
        with self._lock:
            self._given_up = True
            self._close()

    def _close(self) -> None:
        for one in self._taken:
            one.close()


class _LabProcess:
    """One command in the lab: frames to lines, and back."""

    def __init__(self, stream: trio.SocketStream, patience: Patience) -> None:
        silent = f"{_LOST} (nothing was heard of it for {{:g}} s)"
        # Its CPUs are emulated: on a busy machine a thread of theirs may wait for long.
        patience = replace(patience, silence=max(patience.silence, patience.act))
        self.client = StageClient(self._send, patience, silent)
        self._stream = stream
        self._decoder = Decoder()
        self._writing = trio.Lock()
        self._credit = WINDOW
        self._granted = trio.Event()
        self._ended = trio.Event()
        self._errors = b""

    async def start(self) -> None:
        """Ask for it; that it could not be started is noticed by whoever asks it something."""
        await self._frame(Frame(FrameType.START, payload=_request().encode()))

    async def listen(self) -> None:
        """Take what comes from the lab, to its end."""
        try:
            while data := await self._stream.receive_some(_RECEIVE):
                self.client.hear()
                for frame in self._decoder.feed(bytes(data)):
                    await self._take(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except PyvmmError as error:
            self._lose(error.cause)
        if not self._ended.is_set():
            self._lose("the process that keeps it has ended")

    async def end(self) -> None:
        """End its input, and give it a while to end by itself."""
        with trio.move_on_after(self.client.end_patience):
            await self._frame(Frame(FrameType.CLOSE, Stream.INPUT))
            await self._ended.wait()

    def _lose(self, why: str) -> None:
        self.client.lose(f"{_LOST} ({why})")
        self._granted.set()
        self._ended.set()

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self.client.lost:
            if not self._credit:
                self._granted = trio.Event()
                await self._granted.wait()
                continue
            piece = view[: min(self._credit, DATA_MAX)]
            self._credit -= len(piece)
            view = view[len(piece) :]
            await self._frame(Frame(FrameType.DATA, Stream.INPUT, payload=bytes(piece)))

    async def _frame(self, frame: Frame) -> None:
        # One that is sent in part would be nonsense for the keeper: a connection that is given up
        # in the middle of a frame is closed.
        async with self._writing:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_all(frame.encode())

    async def _take(self, frame: Frame) -> None:
        first, second = frame.words() if len(frame.payload) <= 8 else (0, 0)
        match frame.type:
            case FrameType.DATA:
                if frame.stream == Stream.OUTPUT:
                    self.client.feed(frame.payload)
                else:
                    self._errors = (self._errors + frame.payload)[-_TAIL:]
                await self._frame(credit(frame.stream, len(frame.payload)))
            case FrameType.CREDIT if frame.stream == Stream.INPUT:
                self._credit += first
                self._granted.set()
            case FrameType.EXITED:
                how = f"was ended by signal {second}" if first else f"ended with exit code {second}"
                self._gone(f"it {how}")
            case FrameType.REFUSED:
                self._gone(f"it could not be started: {os.strerror(second)}")
            case FrameType.FAILED:
                self._lose(failures.from_bytes(frame.payload).cause)
            case _:
                pass

    def _gone(self, how: str) -> None:
        last = self._errors.decode("utf-8", "replace").strip().rpartition("\n")[2]
        self._ended.set()
        self._granted.set()
        self.client.lose(f"its process is gone: {how}" + (f" ({last})" if last else ""))


def _request() -> Request:
    entry_point = loaded_code.entry_point()
    arguments = [entry_point, *STAGE_COMMAND]
    flags, token = StartFlag.MAY_FORK, b""
    if os.access(entry_point, os.X_OK):
        token = loaded_code.token(os.environb)
    else:
        arguments = [sys.executable, "-m", "pyvmm.demo.house.process"]
        flags = StartFlag(0)
    return Request(
        arguments=[os.fsencode(word) for word in arguments],
        environment=[key + b"=" + value for key, value in os.environb.items()],
        directory=os.fsencode(Path(pyvmm.__file__).parents[1]),
        flags=flags,
        token=token,
    )
