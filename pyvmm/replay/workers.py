# SPDX-License-Identifier: MIT
"""Processes of a story, as processes: each holds its own descriptors, forks and exits for real.

A worker does what `Hands` does, told over a socket. It ends when it is told to or when its socket
is closed, so none outlives the one that started it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from collections.abc import Iterable
from contextlib import ExitStack

from pyvmm.errors import InternalError
from pyvmm.hosts.owner import Owner
from pyvmm.replay.hands import Answer, Hands

_MESSAGE = 4096


class Worker(Owner):
    """A process that holds descriptors; `close` ends it and waits for its end."""

    def __init__(self, pid: int, channel: socket.socket, *, is_child: bool) -> None:
        """Take over a process; `is_child`: of this one."""
        self.pid = pid
        self.channel = channel
        self._is_child = is_child
        self._pidfd = os.pidfd_open(pid)

    @classmethod
    def start(cls, hands: Hands, ours: Iterable[Worker]) -> Worker:
        """A process with `hands` of its own, empty; `ours` are the workers there are already."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as stack:
            stack.callback(near.close)
            with far:
                pid = os.fork()
                if pid == 0:
                    near.close()
                    for other in ours:
                        other.channel.close()
                    _serve(far, hands)
            worker = cls(pid, near, is_child=True)
            stack.pop_all()
        return worker

    def call(self, name: str, *arguments: int) -> Answer:
        """Call the method `name` of its `Hands` and return the answer."""
        self.channel.send(json.dumps([name, *arguments]).encode())
        return self._answer()

    def _answer(self) -> Answer:
        answer = json.loads(self.channel.recv(_MESSAGE) or b'{"wrong": "it ended"}')
        if isinstance(answer, int | str):
            return answer
        raise InternalError(f"let process {self.pid} do its part", str(answer["wrong"]))

    def fork(self) -> Worker:
        """Let it fork: the child, which has inherited what it holds."""
        self.call("before_fork")
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ExitStack() as stack:
            stack.callback(near.close)
            with far:
                socket.send_fds(self.channel, [json.dumps(["fork"]).encode()], [far.fileno()])
            worker = Worker(int(self._answer()), near, is_child=False)
            stack.pop_all()
        return worker

    def close(self) -> None:
        """End it; on return the kernel has closed what it had open."""
        if self._pidfd < 0:
            return
        pidfd, self._pidfd = self._pidfd, -1
        self.channel.close()
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        waiting.poll()
        os.close(pidfd)
        if self._is_child:
            os.waitpid(self.pid, 0)


def _serve(channel: socket.socket, hands: Hands) -> None:
    """The life of a worker. Does not return."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
        while True:
            message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE, 1)
            if not message:
                break
            for received in descriptors:
                os.set_inheritable(received, False)
            name, *arguments = json.loads(message)
            if name == "fork":
                channel = _fork(channel, socket.socket(fileno=descriptors[0]))
                continue
            answer = getattr(hands, name)(*arguments)
            channel.send(json.dumps(answer).encode())
    except BaseException as error:  # noqa: BLE001 - told to the one who asked
        channel.send(json.dumps({"wrong": f"{type(error).__name__}: {error}"}).encode())
    finally:
        os._exit(0)


def _fork(channel: socket.socket, for_child: socket.socket) -> socket.socket:
    """Fork; the socket that this process, parent or child, goes on listening to."""
    pid = os.fork()
    if pid == 0:
        channel.close()
        return for_child
    for_child.close()
    channel.send(json.dumps(pid).encode())
    return channel
