# SPDX-License-Identifier: MIT
"""A disk's bytes as they are in a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import trio

from pyvmm.hosts.file_ranges import punch_hole, zero_range
from pyvmm.machine.ownership import StackOwner

_ZEROES: Final = memoryview(bytes(1 << 20))


_LATER: Final = frozenset({errno.EAGAIN, errno.EOPNOTSUPP})


class RawStore(StackOwner):
    """A `BlockStore` of a file, which it owns.

    What the page cache can answer at once is done at once (``RWF_NOWAIT``, preadv2(2)), and all
    else on a worker thread, which costs as much as many such answers. A request that has begun is
    not abandoned when it is cancelled: the guest's memory is touched no more when it returns.
    """

    def __init__(self, fd: int, size: int) -> None:
        """`fd` is open and locked, and has `size` bytes."""
        self.fd = fd
        self._size = size
        self.flush_error = 0
        """The errno of a flush that has failed; 0 for none."""
        with ExitStack() as stack:
            stack.callback(os.close, fd)
            self.own(stack)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    async def read(self, offset: int, into: Sequence[memoryview]) -> None:
        """Fill the views from `offset` on. Raises `OSError`, also for a file that was cut."""
        done = self._at_once(os.preadv, offset, into)
        if done:
            into = _behind(into, done)
        if into:
            await trio.to_thread.run_sync(self._read, offset + done, into)
        else:
            await trio.lowlevel.checkpoint()

    async def write(self, offset: int, data: Sequence[memoryview]) -> None:
        """Write the views at `offset`. Raises `OSError`."""
        done = self._at_once(os.pwritev, offset, data)
        if done:
            data = _behind(data, done)
        if data:
            await trio.to_thread.run_sync(self._write, offset + done, data)
        else:
            await trio.lowlevel.checkpoint()

    async def write_zeroes(self, offset: int, length: int, *, unmap: bool) -> None:
        """Make `length` bytes zero: a hole with `unmap`, as room that is kept without.

        Written one by one where the file system knows of neither. Raises `OSError`.
        """
        await trio.to_thread.run_sync(self._write_zeroes, offset, length, unmap)

    async def discard(self, offset: int, length: int) -> None:
        """Make a hole, where the file system can. Raises `OSError`."""
        await trio.to_thread.run_sync(punch_hole, self.fd, offset, length)

    async def flush(self) -> None:
        """Have what was written on the disk below, as fdatasync(2) does. Raises `OSError`.

        Once that has failed it always does: the kernel tells of it once, and what it could not
        write may be gone (fsync(2); QEMU, file-posix.c, handle_aiocb_flush).
        """
        if not self.flush_error:
            try:
                await trio.to_thread.run_sync(os.fdatasync, self.fd)
            except OSError as error:
                self.flush_failed(error.errno or errno.EIO)
        if self.flush_error:
            raise OSError(self.flush_error, os.strerror(self.flush_error))

    def flush_failed(self, number: int) -> None:
        """Note that a flush has failed with that errno, whoever has tried."""
        self.flush_error = self.flush_error or number

    def _at_once(
        self,
        call: Callable[[int, Sequence[memoryview], int, int], int],
        offset: int,
        views: Sequence[memoryview],
    ) -> int:
        """Number of bytes that a call has done without waiting, from the first on."""
        try:
            return call(self.fd, views, offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in _LATER:
                return 0
            raise

    def _read(self, offset: int, into: Sequence[memoryview]) -> None:
        while into:
            count = os.preadv(self.fd, into, offset)
            if not count:
                raise OSError(errno.EIO, "the file has become shorter")
            offset += count
            into = _behind(into, count)

    def _write(self, offset: int, data: Sequence[memoryview]) -> None:
        while data:
            count = os.pwritev(self.fd, data, offset)
            offset += count
            data = _behind(data, count)

    def _write_zeroes(self, offset: int, length: int, unmap: bool) -> None:
        make = punch_hole if unmap else zero_range
        if make(self.fd, offset, length):
            return
        end = offset + length
        while offset < end:
            offset += os.pwrite(self.fd, _ZEROES[: end - offset], offset)


def _behind(views: Sequence[memoryview], count: int) -> Sequence[memoryview]:
    """The rest of the views, `count` bytes of which are done."""
    for number, view in enumerate(views):
        if count < len(view):
            return [view[count:], *views[number + 1 :]]
        count -= len(view)
    return ()
