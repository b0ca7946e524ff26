# SPDX-License-Identifier: MIT
"""Runs inside the lab: a process with pyvmm imported, which forks for every pyvmm command.

Importing takes seconds of emulated CPU; forking does not. The lab's first process
(`guest/preload.c`) starts this once and hands over each command on descriptor 3: a message of one
number, the channel, with descriptors: the request (a START payload in a file), then those of the
command's 0, 1 and 2 that are open. We say what became of it in messages of four numbers.

A child is as if the pyvmm command had been executed: own session, its terminal, environment,
directory, mask, signals at their defaults, name in the process list, and an ordinary end of the
interpreter. That is why `serve` returns in the child instead of calling the command: nothing of the
serving side is on its stack. What is loaded, and called then, is `pyvmm.cli.preloaded`'s matter.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
import sys
from typing import IO

from pyvmm.lab.protocol import TERMINALS, Request, StartFlag, Step

CHANNEL_FD = 3
_MESSAGE = struct.Struct("<4I")
_READY, _STARTED, _EXITED, _REFUSED = 1, 2, 3, 4
ROOM_FOR_TITLE = "-" * 4000
"""An argument of this process that makes room for the command lines of its children."""


class _Server:
    def __init__(self) -> None:
        self._channel = socket.socket(fileno=os.dup(CHANNEL_FD))
        os.close(CHANNEL_FD)
        self._children: dict[int, int] = {}

    def say(self, kind: int, channel: int, first: int = 0, second: int = 0) -> None:
        self._channel.send(_MESSAGE.pack(kind, channel, first, second))

    def serve(self) -> Request:
        """Fork for every command; returns in the children only."""
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._channel, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        self.say(_READY, 0)
        while True:
            for fd, _ in poll.poll():
                if fd == wake_read:
                    os.read(wake_read, 4096)
                    self._reap()
                    continue
                data, fds, _, _ = socket.recv_fds(self._channel, 4, 4)
                if not data:
                    os._exit(0)
                for received in fds:
                    os.set_inheritable(received, False)
                request = self._fork(int.from_bytes(data, "little"), fds)
                if request is not None:
                    signal.set_wakeup_fd(-1)
                    os.close(wake_read)
                    os.close(wake_write)
                    self._channel.close()
                    return request

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.say(_EXITED, self._children.pop(pid), status)

    def _fork(self, channel: int, fds: list[int]) -> Request | None:
        with os.fdopen(fds[0], "rb") as file:
            file.seek(0)
            request = Request.decode(file.read())
        pid = os.fork()
        if pid == 0:
            self._become(channel, request, fds[1:])
            return request
        for fd in fds[1:]:
            os.close(fd)
        self._children[pid] = channel
        self.say(_STARTED, channel, pid)
        return None

    def _become(self, channel: int, request: Request, fds: list[int]) -> None:
        os.setsid()
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        # As the interpreter sets them when it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        os.umask(request.mask)
        for which in range(3):
            if request.flags & (StartFlag.CLOSED_INPUT << which):
                os.close(which)
            else:
                os.dup2(fds.pop(0), which)
        if request.flags & TERMINALS:
            import fcntl
            import termios

            terminal = next(
                which for which in range(3) if request.flags & (StartFlag.TERMINAL_INPUT << which)
            )
            fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
        try:
            os.chdir(request.directory)
        except OSError as error:
            self.say(_REFUSED, channel, Step.DIRECTORY, error.errno or 0)
            os._exit(1)


def _take_on(request: Request) -> None:
    """Environment, arguments, name and standard streams of the command."""
    environment = dict(entry.partition(b"=")[::2] for entry in request.environment if b"=" in entry)
    os.environb.clear()
    for key, value in environment.items():
        if key:
            os.environb[key] = value
    sys.argv = [os.fsdecode(argument) for argument in request.arguments]
    _set_title(request)
    for which, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        old = getattr(sys, name)
        new: IO[str] | None = None
        if not request.flags & (StartFlag.CLOSED_INPUT << which):
            # Line by line on a terminal, which open() finds out; on standard error always.
            new = os.fdopen(
                which,
                mode,
                1 if which == 2 else -1,
                old.encoding if old else "utf-8",
                "backslashreplace" if which == 2 or old is None else old.errors,
                closefd=False,
            )
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


def _set_title(request: Request) -> None:
    """Set what ps shows: the name, and the command line where this process's own was."""
    name = request.arguments[0].rpartition(b"/")[2][:15]
    with open("/proc/self/comm", "wb") as file:  # noqa: PTH123
        file.write(name)
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        fields = file.read().rpartition(b")")[2].split()
    # proc_pid_stat(5): fields 48 and 49 are arg_start and arg_end; the third is fields[0].
    start, end = int(fields[45]), int(fields[46])
    title = b"".join(argument + b"\0" for argument in (sys.executable.encode(), *request.arguments))
    with open("/proc/self/mem", "r+b", buffering=0) as file:  # noqa: PTH123
        file.seek(start)
        file.write(title[: end - start - 1].ljust(end - start, b"\0"))


def serve() -> None:
    """Serve; returns in a child, which is the command from then on."""
    # Children share what is loaded; a collection would touch, and so copy, all of it.
    gc.collect()
    gc.freeze()
    _take_on(_Server().serve())
