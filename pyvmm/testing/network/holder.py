# SPDX-License-Identifier: MIT
"""The process that holds networks: ``python -m pyvmm.testing.network.holder CHANNEL PID``.

It has one child for each network, which is in that network's namespace and serves it. All of them
end when their channel does, or the process PID, however that comes to its end: what they hold, the
kernel takes away.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from pyvmm.errors import HostLacksError, NoPermissionError, PyvmmError, SystemCallError, UsageError
from pyvmm.testing.network import channel as channels
from pyvmm.testing.network.captures import Captures
from pyvmm.testing.network.messages import (
    AddAddress,
    AddPort,
    Answer,
    Done,
    Flush,
    Impair,
    OpenNetwork,
    OpenSocket,
    Refusal,
    RefusalKind,
    Request,
    SetLink,
    StartCapture,
    Started,
    StopCapture,
    read_request,
    written,
)
from pyvmm.testing.network.namespace import SWITCH, Namespace, enter_namespace

Served = tuple[Answer, Sequence[int]]
"""An answer, and the descriptors that go with it, which are closed when it is sent."""


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve the channel whose descriptor is the first argument. Does not return."""
    number, pid = map(int, arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The kernel buries the children.
    with socket.socket(fileno=number) as channel:
        channel.set_inheritable(False)
        try:
            owner = os.pidfd_open(pid)
        except ProcessLookupError:
            os._exit(0)
        Server(channel, owner).serve()
    os._exit(0)


class Server:
    """A process that answers requests on `channel` while the process of the pidfd `owner` is."""

    def __init__(self, channel: socket.socket, owner: int) -> None:
        self._channel = channel
        self._owner = owner

    def serve(self) -> None:
        """Answer until the channel ends, or the owner."""
        own = self._channel.fileno()
        while True:
            # Not by select(2): a process that starts this one may have more than 1024 descriptors.
            waiting = select.poll()
            for descriptor in (own, self._owner, *self.others()):
                waiting.register(descriptor, select.POLLIN)
            ready = {descriptor for descriptor, _ in waiting.poll()}
            if self._owner in ready:
                return
            if own not in ready:
                self.look_at_others()
            else:
                data, descriptors = channels.receive(self._channel)
                if not data:
                    return
                self._answer(data, descriptors)

    def others(self) -> Sequence[int]:
        """Descriptors that are to be looked at as well when they are readable."""
        return ()

    def look_at_others(self) -> None:
        """Look at them; does not wait."""

    def _answer(self, data: bytes, descriptors: list[int]) -> None:
        """Answer one request; `descriptors` came with it."""
        answer: Answer
        given: Sequence[int] = ()
        try:
            answer, given = self.answer(read_request(data), descriptors)
        except Exception as error:  # noqa: BLE001 - it is told
            answer = refusal(error)
        finally:
            channels.close_all(descriptors)
        try:
            channels.send(self._channel, written(answer), given)
        finally:
            channels.close_all(given)

    def answer(self, request: Request, descriptors: list[int]) -> Served:
        """Do what is asked for; here: make networks. It closes no descriptor that it is given."""
        if not isinstance(request, OpenNetwork):
            raise UsageError(f"do {request}", "there is no network")
        try:
            import pyroute2  # noqa: F401 - once, before the children are made.
        except ImportError:
            raise HostLacksError(
                "make a network", "pyroute2 is not installed", "pip install 'pyvmm[net]'"
            ) from None
        child = os.fork()
        if child == 0:
            self._become_holder(socket.socket(fileno=os.dup(descriptors[0])), request)
        try:
            return Done(), [os.pidfd_open(child)]
        except ProcessLookupError:
            raise SystemCallError("make a network", 0, "its process has ended") from None

    def _become_holder(self, channel: socket.socket, request: OpenNetwork) -> NoReturn:
        """Be the holder of one network, in the child. Does not return."""
        try:
            self._channel.close()
            try:
                enter_namespace()
                holder = Holder(channel, self._owner, Namespace(request))
            except Exception as error:  # noqa: BLE001 - it is told
                channels.send(channel, written(refusal(error)))
            else:
                channels.send(channel, written(Done()))
                holder.serve()
        finally:
            os._exit(0)


class Holder(Server):
    """The process of one network, in its namespace."""

    def __init__(self, channel: socket.socket, owner: int, namespace: Namespace) -> None:
        super().__init__(channel, owner)
        self._namespace = namespace
        self._captures = Captures(SWITCH)

    def others(self) -> Sequence[int]:
        """Descriptor of the captures, if there are any."""
        descriptor = self._captures.descriptor
        return () if descriptor is None else (descriptor,)

    def look_at_others(self) -> None:
        """Take some captured frames."""
        self._captures.take()

    def answer(self, request: Request, descriptors: list[int]) -> Served:
        """Do what is asked for in the namespace. It closes no descriptor that it is given."""
        match request:
            case AddPort():
                return Done(), self._namespace.add_port(request)
            case OpenSocket():
                return Done(), [self._namespace.open_socket(request).detach()]
            case StartCapture():
                return Started(self._captures.start(os.dup(descriptors[0]), request.limit)), ()
            case StopCapture():
                return self._captures.stop(request.number), ()
            case Flush():
                self._captures.flush()
            case SetLink():
                self._namespace.set_link(request)
            case AddAddress():
                self._namespace.add_address(request)
            case Impair():
                self._namespace.impair(request)
            case _:
                raise UsageError(f"do {request}", "this process holds one network")
        return Done(), ()


def refusal(error: Exception) -> Refusal:
    """The answer that tells of an error."""
    attempt = "do this in the network"
    if isinstance(error, OSError):
        error = SystemCallError(attempt, error.errno or 0, error.strerror or str(error))
    if not isinstance(error, PyvmmError):
        traceback.print_exception(error)
        return Refusal(RefusalKind.DEFECT, attempt, f"{type(error).__name__}: {error}", "", 0)
    kind = RefusalKind.DEFECT
    if isinstance(error, UsageError):
        kind = RefusalKind.USAGE
    elif isinstance(error, (HostLacksError, NoPermissionError)):
        kind = RefusalKind.LACKS
    elif isinstance(error, SystemCallError):
        kind = RefusalKind.SYSTEM_CALL
    number = error.errno if isinstance(error, SystemCallError) else 0
    return Refusal(kind, error.attempt, error.cause, error.remedy, number)


if __name__ == "__main__":
    main(sys.argv[1:])
