# SPDX-License-Identifier: MIT
"""Captures of a network's frames, in its namespace: each frame once, where its sender sent it.

By a packet socket of all devices (packet(7)), of which frames count that a port's guest sends, and
those that the host sends itself.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from pyvmm.errors import UsageError
from pyvmm.net.pcap import FILE_HEADER, record_header
from pyvmm.testing.network.messages import Captured

_EVERY_PROTOCOL: Final = 3
"""ETH_P_ALL."""
_OUTGOING: Final = 4
"""PACKET_OUTGOING: sent by this namespace, to a guest or by its host."""
_LONGEST: Final = 1 << 17
_ROOM: Final = 16 << 20
"""Bytes of frames that may wait for this process."""
_AT_ONCE: Final = 256
"""Frames that are taken before somebody else has a turn."""
_MOST_AT_THE_END: Final = 1 << 16
"""Frames that are taken at the end of a capture, however many come meanwhile."""

_FORCED_ROOM: Final = 33
"""SO_RCVBUFFORCE: more than the system allows for others."""
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_PACKET_AUXDATA: Final = 8
_STATISTICS: Final = struct.Struct("II")
_AUXDATA: Final = struct.Struct("IIIHHHH")
"""struct tpacket_auxdata (linux/if_packet.h)."""
_HAS_VLAN, _HAS_VLAN_TYPE = 1 << 4, 1 << 6
_VLAN: Final = 0x8100
_TIMESTAMPS: Final = 35
"""SO_TIMESTAMPNS, and the kind of what it gives."""
_TIMESPEC: Final = struct.Struct("qq")


@dataclass
class _File:
    number: int
    fd: int
    limit: int
    lost_before: int
    size: int = 0
    frames: int = 0
    trouble: str = ""

    def write(self, record: bytes) -> bool:
        """Write a record whole, or nothing; False where that has failed, now or before."""
        if self.trouble:
            return False
        if self.limit and self.size + len(record) > self.limit:
            self.trouble = f"it has {self.size} bytes, and more was not wanted"
            return False
        done = 0
        try:
            while done < len(record):
                done += os.write(self.fd, record[done:])
        except OSError as error:
            self.trouble = error.strerror or str(error)
            with suppress(OSError):
                os.ftruncate(self.fd, self.size)
            return False
        self.size += len(record)
        return True


class Captures:
    """Captures of a namespace. Nothing here waits for frames."""

    def __init__(self, switch: str) -> None:
        """`switch` is the device of the namespace's host."""
        self._switch = switch
        self._files: dict[int, _File] = {}
        self._made = 0
        self._lost = 0
        self._socket: socket.socket | None = None

    @property
    def descriptor(self) -> int | None:
        """Descriptor that is readable when there is something to `take`; None without captures."""
        return None if self._socket is None else self._socket.fileno()

    def start(self, fd: int, limit: int) -> int:
        """Write all frames from now on to the file `fd`, which is ours; number of the capture.

        At most `limit` bytes, unless that is 0. Raises `OSError`.
        """
        try:
            if self._socket is None:
                self._socket = _packet_socket()
        except BaseException:
            os.close(fd)
            raise
        self.flush()
        self._made += 1
        self._count_lost()
        file = self._files[self._made] = _File(self._made, fd, limit, self._lost)
        file.write(FILE_HEADER)
        return file.number

    def stop(self, number: int) -> Captured:
        """End a capture when all frames up to now are in its file. Raises `UsageError`."""
        if number not in self._files:
            raise UsageError(f"end capture {number}", "there is none of that number")
        self.flush()
        self._count_lost()
        file = self._files.pop(number)
        os.close(file.fd)
        if not self._files and self._socket is not None:
            self._socket.close()
            self._socket = None
        return Captured(number, file.frames, self._lost - file.lost_before, file.trouble)

    def take(self, most: int = _AT_ONCE) -> None:
        """Write frames that have come, `most` of them at the most."""
        if self._socket is None:
            return
        for _ in range(most):
            try:
                frame, ancillary, _flags, sender = self._socket.recvmsg(_LONGEST, 256)
            except BlockingIOError:
                return
            except OSError:
                continue  # ENETDOWN: a device has gone, or is down; told once.
            device, outgoing = sender[0], sender[2] == _OUTGOING
            if device != "lo" and outgoing == (device == self._switch):
                self._add(frame, ancillary)

    def flush(self) -> None:
        """Have all frames up to now in the files."""
        self.take(_MOST_AT_THE_END)

    def _add(self, frame: bytes, ancillary: list[tuple[int, int, bytes]]) -> None:
        when = time.time_ns()
        for level, kind, value in ancillary:
            if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
                frame = _with_vlan(frame, value)
            elif (level, kind) == (socket.SOL_SOCKET, _TIMESTAMPS):
                seconds, nanoseconds = _TIMESPEC.unpack_from(value)
                when = seconds * 1_000_000_000 + nanoseconds
        record = record_header(when, len(frame)) + frame
        for file in self._files.values():
            file.frames += file.write(record)

    def _count_lost(self) -> None:
        if self._socket is not None:
            counts = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, _STATISTICS.size)
            self._lost += _STATISTICS.unpack(counts)[1]


def _packet_socket() -> socket.socket:
    """Make a socket of all frames. Raises `OSError`."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERY_PROTOCOL))
    try:
        opened.setblocking(False)
        opened.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        opened.setsockopt(socket.SOL_SOCKET, _TIMESTAMPS, 1)
        try:
            opened.setsockopt(socket.SOL_SOCKET, _FORCED_ROOM, _ROOM)
        except PermissionError:  # In a user namespace of an older kernel.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
    except BaseException:
        opened.close()
        raise
    return opened


def _with_vlan(frame: bytes, value: bytes) -> bytes:
    """A frame with the tag that the kernel has taken out of it, if any."""
    status, _, _, _, _, tag, kind = _AUXDATA.unpack_from(value)
    if not status & _HAS_VLAN:
        return frame
    kind = kind if status & _HAS_VLAN_TYPE else _VLAN
    return frame[:12] + struct.pack("!HH", kind, tag) + frame[12:]
