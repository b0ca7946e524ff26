# SPDX-License-Identifier: MIT
"""A wire that is a stream socket: before each frame its length, in 4 bytes, the highest first.

QEMU's ``-netdev stream``, passt and libkrun have the same format. It has no offloads.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final, Self

from pyvmm.devices.virtio.buffers import put
from pyvmm.net.frames import HEADER_SIZE, MOST_FRAME, NO_OFFLOADS, Offload, WireEndedError

LEAST_FRAME: Final = 14
"""Bytes of the shortest frame: an Ethernet header."""
_LENGTH: Final = struct.Struct(">I")
_HEADER: Final = struct.pack("<10xH", 1)
_NO_WORK: Final = bytes(10)
"""Header of a frame that leaves no work to the other side, without `num_buffers`."""


class StreamQueue:
    """The one queue of such a wire. `why` says in words why the other end has gone."""

    def __init__(self, connection: socket.socket, why: Callable[[], str]) -> None:
        """Take over `connection`, which does not block from now on."""
        connection.setblocking(False)
        self._socket = connection
        self._why = why
        self._room = memoryview(bytearray(MOST_FRAME + _LENGTH.size))
        self._filled = 0
        self._length = b""
        self._frame: int | None = None
        """Bytes of the frame that comes; None: `_length` is not whole yet."""
        self._rest = b""
        """Part of a frame whose beginning is sent."""
        self._cut = b""
        """That frame, until the next is sent: which is the same one if it is tried again."""

    def fileno(self) -> int:
        """Descriptor of the socket, -1 after `close`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it, once."""
        self._socket.close()

    def receive(self, views: Sequence[memoryview]) -> int:
        """Read a frame, as `WireQueue` has it; one that is too short as well."""
        return put(views, (_HEADER + self._read())[: sum(map(len, views))])

    def _read(self) -> bytes:
        """Read on until the next frame is whole."""
        while self._frame is None:
            self._length += self._some(bytearray(_LENGTH.size - len(self._length)))
            self._take_length()
        # The length of the next frame comes with this one, so that each costs one call; but nothing
        # of that frame does, or the descriptor would not be readable while it lies here.
        end = self._frame + _LENGTH.size
        while self._filled < self._frame:
            self._filled += len(self._some(self._room[self._filled : end]))
        frame = bytes(self._room[: self._frame])
        self._length = bytes(self._room[self._frame : self._filled])
        self._filled, self._frame = 0, None
        self._take_length()
        return frame

    def _take_length(self) -> None:
        if len(self._length) < _LENGTH.size:
            return
        (size,) = _LENGTH.unpack(self._length)
        if size > MOST_FRAME:
            raise WireEndedError(f"its peer has sent a frame of {size} bytes")
        self._length, self._frame = b"", size

    def _some(self, room: bytearray | memoryview) -> bytes | memoryview:
        """Read into `room`; what is read, one byte at least."""
        try:
            count = self._socket.recv_into(room)
        except BlockingIOError:
            raise
        except OSError as error:
            raise WireEndedError(self._why()) from error
        if not count:
            raise WireEndedError(self._why())
        return memoryview(room)[:count]

    def send(self, views: Sequence[memoryview]) -> None:
        """Write a frame, as `WireQueue` has it. Raises `OSError` for one that leaves work to do.

        Of a frame that only a part finds room for the rest is kept, and sent first the next time:
        there was no room until then.
        """
        whole = b"".join(views)
        size = len(whole) - HEADER_SIZE
        if not LEAST_FRAME <= size <= MOST_FRAME:
            raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE))
        if whole[: len(_NO_WORK)] != _NO_WORK:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if self._rest:
            self._rest = self._rest[self._put([self._rest]) :]
            if self._rest:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        before, self._cut = self._cut, b""
        if whole == before:
            return
        parts: list[bytes | memoryview] = [_LENGTH.pack(size), memoryview(whole)[HEADER_SIZE:]]
        sent = self._put(parts)
        if sent < _LENGTH.size + size:
            self._rest, self._cut = b"".join(parts)[sent:], whole
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _put(self, parts: Sequence[bytes | memoryview]) -> int:
        try:
            return self._socket.sendmsg(parts, (), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            raise
        except OSError as error:
            raise WireEndedError(self._why()) from error


class StreamWire:
    """A wire that is a stream socket. A context manager, which owns the socket."""

    offloads = NO_OFFLOADS
    descriptors: tuple[int, ...] = ()

    def __init__(
        self,
        connection: socket.socket,
        mtu: int | None = None,
        why: Callable[[], str] = lambda: "its peer has closed it",
    ) -> None:
        """Take over `connection`; `mtu` in bytes is what the other end takes, if that is known."""
        self.mtu = mtu
        self.queues = (StreamQueue(connection, why),)

    def receive_with(self, wanted: Offload) -> None:
        """Do nothing: no frame that comes needs any."""

    def use_queues(self, count: int) -> None:
        """Do nothing: there is one."""

    def close(self) -> None:
        """Close the socket, once."""
        self.queues[0].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
