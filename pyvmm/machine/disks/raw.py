# SPDX-License-Identifier: MIT
"""A disk's bytes as they are in a file."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack

import trio

from pyvmm.machine.ownership import StackOwner


class RawStore(StackOwner):
    """A `BlockStore` of a file, which it owns. Every request is made on a worker thread.

    A request that has begun is not abandoned when it is cancelled: the guest's memory is touched
    no more when it returns.
    """

    def __init__(self, fd: int, size: int) -> None:
        """`fd` is open and locked, and has `size` bytes."""
        self._fd = fd
        self._size = size
        with ExitStack() as stack:
            stack.callback(os.close, fd)
            self.own(stack)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    async def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` from `offset` on. Raises `OSError`, also for a file that was cut."""
        await trio.to_thread.run_sync(self._read, offset, into)

    async def write(self, offset: int, data: memoryview) -> None:
        """Write `data` at `offset`. Raises `OSError`."""
        await trio.to_thread.run_sync(self._write, offset, data)

    async def flush(self) -> None:
        """Have what was written on the disk below, as fdatasync(2) does."""
        await trio.to_thread.run_sync(os.fdatasync, self._fd)

    def _read(self, offset: int, into: memoryview) -> None:
        done = 0
        while done < len(into):
            count = os.preadv(self._fd, [into[done:]], offset + done)
            if not count:
                raise OSError(errno.EIO, "the file has become shorter")
            done += count

    def _write(self, offset: int, data: memoryview) -> None:
        done = 0
        while done < len(data):
            done += os.pwritev(self._fd, [data[done:]], offset + done)
