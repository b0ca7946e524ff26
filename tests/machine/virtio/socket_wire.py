# SPDX-License-Identifier: MIT
"""A wire of a test's own: pairs of sockets, each packet a frame with its header."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack

from pyvmm.hosts.owner import Owner
from pyvmm.net.frames import NO_OFFLOADS, Offload, WireEndedError

HEADER = bytes(10) + b"\1\0"
"""A header that asks for nothing."""


class SocketQueue:
    """One end of a pair, which the card has."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        end.setblocking(False)

    def fileno(self) -> int:
        return self.end.fileno()

    def receive(self, views: Sequence[memoryview]) -> int:
        size = self.end.recvmsg_into(views)[0]
        if not size:
            raise WireEndedError
        return size

    def send(self, views: Sequence[memoryview]) -> None:
        try:
            self.end.sendmsg(views)
        except BrokenPipeError as error:
            raise WireEndedError from error


class SocketWire(Owner):
    """A `Wire` whose other ends are `peers`: blocking sockets, by queue."""

    descriptors: tuple[int, ...] = ()

    def __init__(
        self, queues: int = 1, *, offloads: Offload = NO_OFFLOADS, mtu: int | None = None
    ) -> None:
        self.offloads = offloads
        self.mtu = mtu
        self.wanted: list[Offload] = []
        """What frames may need, as often as it was said."""
        self.used: list[int] = []
        """Numbers of queues, as often as they were said."""
        with ExitStack() as stack:
            pairs = [
                tuple(
                    stack.enter_context(end)
                    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                )
                for _ in range(queues)
            ]
            self._owned = stack.pop_all()
        self.queues = [SocketQueue(ours) for ours, _ in pairs]
        self.peers = [peer for _, peer in pairs]

    def receive_with(self, wanted: Offload) -> None:
        self.wanted.append(wanted)

    def use_queues(self, count: int) -> None:
        self.used.append(count)

    def close(self) -> None:
        self._owned.close()
