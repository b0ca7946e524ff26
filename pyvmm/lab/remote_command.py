# SPDX-License-Identifier: MIT
"""A command in the lab whose standard input and output are the caller's, not this process's own.

Blocking, and for one thread. Nothing of this process is touched: no signal, no descriptor.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from pyvmm.lab import failures
from pyvmm.lab.failures import LabError, LabSilentError
from pyvmm.lab.protocol import (
    DATA_MAX,
    WINDOW,
    Decoder,
    Frame,
    FrameType,
    Request,
    Step,
    Stream,
    credit,
)

_RECEIVE = 128 << 10
_TAIL_BYTES = 8192


class RemoteCommand:
    """A command from its start to its end, over a connection to a keeper that is closed with it.

    A lab that says nothing for `patience` seconds counts as lost, so the command has to say
    something now and then.
    """

    def __init__(
        self,
        connection: socket.socket,
        arguments: Sequence[str],
        environment: Mapping[bytes, bytes],
        directory: Path,
        patience: float,
    ) -> None:
        """Ask for it; `wait_for_start` says that it was started."""
        self.ending: str | None = None
        """Ending of the command, in words; None while it runs."""
        self.status: int | None = None
        """Its exit status once it has ended, negative for a signal; None where it never ran."""
        self._connection = connection
        self._decoder = Decoder()
        self._credit = WINDOW
        self._started = False
        self._output = bytearray()
        self._errors = b""
        connection.settimeout(patience)
        request = Request(
            arguments=[os.fsencode(word) for word in arguments],
            environment=[key + b"=" + value for key, value in environment.items()],
            directory=os.fsencode(directory),
        )
        self._send(Frame(FrameType.START, payload=request.encode()))

    @property
    def last_lines(self) -> str:
        """The end of what it wrote to standard error."""
        return self._errors.decode("utf-8", "replace")

    def wait_for_start(self) -> None:
        """Wait until it runs. Raises `LabError` where the lab is lost, or does not start it."""
        while not self._started:
            self._exchange()
            if self.ending is not None and not self._started:
                raise LabError("run a command in the lab", self.ending)

    def send(self, data: bytes) -> None:
        """Send to its standard input. Raises `LabError` where the lab is lost."""
        view = memoryview(data)
        while view:
            while not self._credit:
                self._exchange()
            piece = view[: min(self._credit, DATA_MAX)]
            self._credit -= len(piece)
            view = view[len(piece) :]
            self._send(Frame(FrameType.DATA, Stream.INPUT, payload=bytes(piece)))

    def end_input(self) -> None:
        """End its standard input, if it still runs. Raises `LabError` where the lab is lost."""
        try:
            self._send(Frame(FrameType.CLOSE, Stream.INPUT))
        except LabError:
            if self.ending is None:
                raise

    def receive_line(self) -> bytes | None:
        """Take a line of its standard output, without its end; None after the command's end.

        Raises `LabError` where the lab is lost.
        """
        while b"\n" not in self._output:
            if self.ending is not None:
                return None
            self._exchange()
        line, _, rest = bytes(self._output).partition(b"\n")
        self._output = bytearray(rest)
        return line

    def close(self) -> None:
        """End the command, if it still runs, and the connection."""
        self._connection.close()

    def _send(self, frame: Frame) -> None:
        try:
            self._connection.sendall(frame.encode())
        except TimeoutError as error:
            raise self._silent() from error
        except OSError as error:
            # The lab's last word comes the other way.
            self._drain()
            raise LabError("go on with the command in the lab", "the lab has ended") from error

    def _give_credit(self, frame: Frame) -> None:
        """Say that output was taken. Where nobody is there any more, the last word is yet to come.

        It may be among the frames that have been received with this one.
        """
        try:
            self._connection.sendall(credit(frame.stream, len(frame.payload)).encode())
        except TimeoutError as error:
            raise self._silent() from error
        except OSError:
            pass

    def _drain(self) -> None:
        while self.ending is None:
            self._exchange()

    def _exchange(self) -> None:
        try:
            data = self._connection.recv(_RECEIVE)
        except TimeoutError as error:
            raise self._silent() from error
        except ConnectionError:
            data = b""
        if not data and self.ending is None:
            raise LabError("go on with the command in the lab", "the lab has ended")
        for frame in self._decoder.feed(data):
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        first, second = frame.words() if len(frame.payload) <= 8 else (0, 0)
        match frame.type:
            case FrameType.DATA:
                if frame.stream == Stream.OUTPUT:
                    self._output += frame.payload
                else:
                    self._errors = (self._errors + frame.payload)[-_TAIL_BYTES:]
                if self.ending is None:
                    self._give_credit(frame)
            case FrameType.STARTED:
                self._started = True
            case FrameType.CREDIT:
                self._credit += first
            case FrameType.EXITED:
                self.status = -second if first else second
                self.ending = (
                    f"it was ended by signal {second}" if first else f"it ended with {second}"
                )
            case FrameType.REFUSED:
                step = Step(first).name.lower() if first in set(Step) else "start"
                self.ending = f"it could not be started ({step}: {os.strerror(second)})"
            case FrameType.FAILED:
                raise failures.from_bytes(frame.payload)
            case _:
                pass

    def _silent(self) -> LabSilentError:
        return LabSilentError(
            "go on with the command in the lab",
            f"nothing came from it for {self._connection.gettimeout():g} s",
        )
