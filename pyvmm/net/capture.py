# SPDX-License-Identifier: MIT
"""A wire whose frames are written to a file as well, each when the card gets it or has sent it.

What a frame leaves to the other side is not done in it: a checksum is not whole, and a long frame
is one that somebody cuts up afterwards.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Final

from pyvmm.devices.virtio.buffers import first
from pyvmm.net.frames import HEADER_SIZE, Offload, Wire, WireQueue
from pyvmm.net.pcap import FILE_HEADER, record_header

MOST_WAITING: Final = 1 << 20
"""Bytes that wait for whoever reads a FIFO."""


class CaptureFile:
    """Frames in a file, as pcap. Once that has failed nothing more is written.

    `on_failure` is called then, once; a regular file ends behind the last whole frame.
    """

    def __init__(self, fd: int) -> None:
        """Write to `fd`, which stays its owner's, and is empty, or no regular file."""
        self._fd = fd
        self._is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        self._size = 0
        self._waiting = b""
        self.failure: OSError | None = None
        self.on_failure: Callable[[OSError], None] = lambda _: None
        self._write(FILE_HEADER)

    def add(self, views: Sequence[memoryview]) -> None:
        """Add the frame in `views`, header first."""
        if self.failure is None:
            whole = b"".join(views)
            size = max(len(whole) - HEADER_SIZE, 0)
            self._write(record_header(time.time_ns(), size) + whole[HEADER_SIZE:])

    def _write(self, record: bytes) -> None:
        waiting = self._waiting + record
        try:
            waiting = waiting[os.write(self._fd, waiting) :]
            # A disk that fills up takes a part; the next call says why.
            while waiting and self._is_regular:
                waiting = waiting[os.write(self._fd, waiting) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(error)
            return
        self._size += len(record)
        self._waiting = waiting
        if len(waiting) > MOST_WAITING:
            self._fail(OSError(errno.EAGAIN, "whoever reads it does not keep up"))

    def _fail(self, error: OSError) -> None:
        self._waiting = b""
        self.failure = error
        if self._is_regular:
            os.ftruncate(self._fd, self._size)
        self.on_failure(error)


class CaptureQueue:
    """A queue of such a wire."""

    def __init__(self, queue: WireQueue, file: CaptureFile) -> None:
        self._queue = queue
        self._file = file

    def fileno(self) -> int:
        """Descriptor of the queue."""
        return self._queue.fileno()

    def receive(self, views: Sequence[memoryview]) -> int:
        """Read a frame, as `WireQueue` has it."""
        count = self._queue.receive(views)
        self._file.add(first(views, count))
        return count

    def send(self, views: Sequence[memoryview]) -> None:
        """Write a frame, as `WireQueue` has it."""
        if self._file.failure is None:
            # One copy: a guest could have another frame there than the one that was sent.
            views = [memoryview(b"".join(views))]
        self._queue.send(views)
        self._file.add(views)


class CaptureWire:
    """A wire around another one, which stays its owner's. Frames go through its queues alone."""

    descriptors: tuple[int, ...] = ()

    def __init__(self, wire: Wire, file: CaptureFile) -> None:
        self.inner = wire
        self.file = file
        self.queues = tuple(CaptureQueue(queue, file) for queue in wire.queues)
        self.offloads = wire.offloads
        self.mtu = wire.mtu

    def receive_with(self, wanted: Offload) -> None:
        """Ask the wire for that."""
        self.inner.receive_with(wanted)

    def use_queues(self, count: int) -> None:
        """Ask the wire for that."""
        self.inner.use_queues(count)
