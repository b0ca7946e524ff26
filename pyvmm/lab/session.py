# SPDX-License-Identifier: MIT
"""One command in the lab, seen from here: our descriptors and signals become its own.

Imports little, because a command in a lab that is up is to feel as if it ran here.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pyvmm.lab import failures
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
    resize,
    signal_frame,
)
from pyvmm.lab.starting import keeper_ended
from pyvmm.lab.terminal import OurTerminal

_GROUP_SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
"""Signals that a terminal sends to all in the foreground; in the lab, to the process group."""
_PROCESS_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
_PIPE_CHUNK = 4096
"""A pipe that polls as writable takes so much without blocking (PIPE_BUF)."""
_ENOUGH_QUEUED = 4 * DATA_MAX


@dataclass(frozen=True, slots=True)
class Ending:
    """Ending of the command: with an exit status, or by a signal, or it could not be started."""

    status: int = 0
    signal: int = 0
    step: int = 0
    errno: int = 0


class _Output:
    """One of our descriptors, with what is still to be written to it."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.waiting = bytearray()
        self.passed_on = 0
        self.broken = False
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            mode = 0
        # Files never block; everything else takes small pieces.
        self._chunk = DATA_MAX if stat.S_ISREG(mode) else _PIPE_CHUNK

    def write(self) -> OSError | None:
        """Write a piece; the error that ends this stream, if that is what it brings."""
        try:
            count = os.write(self.fd, self.waiting[: self._chunk])
        except BlockingIOError:
            return None
        except OSError as error:
            self.waiting.clear()
            self.broken = True
            return error
        del self.waiting[:count]
        self.passed_on += count
        return None


class Session:
    """A command from START to its end, over a connection to a keeper."""

    def __init__(self, connection: socket.socket, request: Request, terminal: OurTerminal) -> None:
        self._connection = connection
        self._request = request
        self._terminal = terminal
        self._decoder = Decoder()
        self._to_lab = bytearray(Frame(FrameType.START, payload=request.encode()).encode())
        self._input_credit = WINDOW
        self._input_open = not request.flags & request.flags.CLOSED_INPUT
        self._started = False
        self._ending: Ending | None = None
        self._outputs = {Stream.OUTPUT: _Output(1), Stream.ERROR: _Output(2)}
        if terminal.output_fd is not None:
            self._outputs[Stream.TERMINAL] = _Output(terminal.output_fd)
        self.complaint: OSError | None = None
        """Error that kept some of the command's output from being written; broken pipes and
        standard error do not count."""

    def run(self) -> Ending:
        """Until the command has ended and all of its output is written.

        Raises what the keeper reports of a lab that fails (`pyvmm.lab.failures`).
        """
        connection = self._connection
        connection.setblocking(False)
        wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        before = signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        restore = self._catch_signals()
        try:
            while self._ending is None or any(out.waiting for out in self._outputs.values()):
                for fd, events in self._poll(connection.fileno(), wake):
                    if fd == wake:
                        self._take_signals(os.read(wake, 512))
                    elif fd == connection.fileno():
                        self._exchange(events)
                    else:
                        self._move(fd, events)
            return self._ending
        finally:
            self._terminal.close()
            restore()
            signal.set_wakeup_fd(before)
            os.close(wake)
            os.close(wake_write)

    def _poll(self, connection: int, wake: int) -> list[tuple[int, int]]:
        poll = select.poll()
        poll.register(wake, select.POLLIN)
        if self._ending is None:
            wants = select.POLLIN | (select.POLLOUT if self._to_lab else 0)
            poll.register(connection, wants)
        waiting = {out.fd for out in self._outputs.values() if out.waiting}
        for fd in waiting:
            poll.register(fd, select.POLLOUT)
        if self._wants_input():
            poll.register(0, select.POLLIN | (select.POLLOUT if 0 in waiting else 0))
        return poll.poll()

    def _wants_input(self) -> bool:
        return (
            self._input_open
            and self._started
            and self._ending is None
            and self._input_credit > 0
            and len(self._to_lab) < _ENOUGH_QUEUED
            and self._terminal.may_read
        )

    def _send(self, frame: Frame) -> None:
        self._to_lab += frame.encode()

    def _exchange(self, events: int) -> None:
        if events & select.POLLOUT:
            with suppress(BlockingIOError, ConnectionError):
                del self._to_lab[: self._connection.send(self._to_lab)]
        if events & ~select.POLLOUT:
            try:
                data = self._connection.recv(128 << 10)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            for frame in self._decoder.feed(data):
                self._take(frame)
            if not data and self._ending is None:
                raise keeper_ended("go on with the command in the lab")

    def _take(self, frame: Frame) -> None:
        first, second = frame.words() if len(frame.payload) <= 8 else (0, 0)
        match frame.type:
            case FrameType.DATA:
                out = self._outputs.get(Stream(frame.stream))
                if out is not None and not out.broken:
                    out.waiting += frame.payload
                    if len(out.waiting) == len(frame.payload):
                        self._write(out)
            case FrameType.STARTED:
                self._started = True
                self._terminal.enter()
            case FrameType.CREDIT:
                self._input_credit += first
            case FrameType.CLOSE if frame.stream == Stream.INPUT:
                self._input_open = False
            case FrameType.EXITED:
                self._ending = Ending(signal=second) if first else Ending(status=second)
            case FrameType.REFUSED:
                self._ending = Ending(step=first or Step.REQUEST, errno=second)
            case FrameType.FAILED:
                raise failures.from_bytes(frame.payload)
            case _:
                pass

    def _move(self, fd: int, events: int) -> None:
        if events & (select.POLLOUT | select.POLLERR):
            for out in self._outputs.values():
                if out.fd == fd and out.waiting:
                    self._write(out)
        if fd == 0 and events & ~select.POLLOUT:
            self._read_input()

    def _read_input(self) -> None:
        try:
            data = os.read(0, min(DATA_MAX, self._input_credit))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._input_credit -= len(data)
            self._send(Frame(FrameType.DATA, Stream.INPUT, payload=data))
        else:
            self._input_open = False
            self._send(Frame(FrameType.CLOSE, Stream.INPUT))

    def _write(self, out: _Output) -> None:
        stream = next(stream for stream, other in self._outputs.items() if other is out)
        error = out.write()
        if error is not None:
            # The command's own writes fail from now on, as they would here.
            self._send(Frame(FrameType.CLOSE, stream))
            if error.errno != errno.EPIPE and stream is not Stream.ERROR:
                self.complaint = error
        elif out.passed_on >= WINDOW // 4:
            self._send(credit(stream, out.passed_on))
            out.passed_on = 0

    def _catch_signals(self) -> Callable[[], None]:
        caught = [*_GROUP_SIGNALS, *_PROCESS_SIGNALS, signal.SIGTSTP, signal.SIGCONT]
        if self._terminal.output_fd is not None:
            caught.append(signal.SIGWINCH)
        before = {}
        for number in caught:
            # What is ignored here, by nohup say, stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, lambda *_: None)

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    def _take_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._send(resize(self._terminal.size()))
            elif number == signal.SIGTSTP:
                self._stop()
            elif number == signal.SIGCONT:
                self._send(signal_frame(signal.SIGCONT, True))
                self._terminal.come_back()
                self._send(resize(self._terminal.size()))
            elif number in (*_GROUP_SIGNALS, *_PROCESS_SIGNALS):
                if not self._started:
                    self._terminal.close()
                    die_by(number)
                self._send(signal_frame(number, number in _GROUP_SIGNALS))

    def _stop(self) -> None:
        # In the lab nobody would continue a job that SIGTSTP stops; SIGSTOP does not ask.
        self._send(signal_frame(signal.SIGSTOP, True))
        with suppress(OSError):
            del self._to_lab[: self._connection.send(self._to_lab)]
        self._terminal.leave()
        os.kill(os.getpid(), signal.SIGSTOP)


def die_by(number: int) -> int:
    """End this process by signal `number`, as the command did, without a core file.

    Returns 128 + `number`, the shells' word for it, where the signal does not end us.
    """
    import resource

    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError, ValueError):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    return 128 + number
