# SPDX-License-Identifier: MIT
"""Files that guest memory is saved to: created as QEMU creates them, sparse where they can be."""

from __future__ import annotations

import os
import select
import stat

import trio

from pyvmm.hosts.owner import Owner
from pyvmm.qmp.command import CommandError

_LOOK_AGAIN = 100
"""Milliseconds between two looks whether somebody still wants what a full pipe does not take."""
_ZEROES = bytes(1 << 16)


class MemoryFile(Owner):
    """Owns a file that is written from its beginning to its end; use it in one worker thread.

    What `put` leaves out is zeroes: a hole in a regular file, zeroes written into anything else
    (a FIFO needs its reader to be there). Waits are left when the trio task that waits for the
    thread is cancelled. Raises `CommandError`, with QEMU's words for a file that cannot be opened.
    """

    def __init__(self, path: str, mode: int) -> None:
        """Create or empty `path`; a new file gets `mode`, less the process's umask."""
        self._path = path
        self._position = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            # O_NONBLOCK: opening a FIFO that nobody reads would wait for ever.
            self._fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY, mode)
        except (OSError, ValueError) as error:
            raise self._failed("open", error) from error
        self._is_regular = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Write `data` at `offset`, in bytes from the file's beginning; never before the last."""
        self._skip_to(offset)
        self._write(data)

    def finish(self, size: int) -> None:
        """The file is `size` bytes long, and complete."""
        if self._is_regular:
            try:
                os.ftruncate(self._fd, size)
            except OSError as error:
                raise self._failed("write", error) from error
        else:
            self._skip_to(size)

    def _skip_to(self, offset: int) -> None:
        if self._is_regular:
            self._position = offset
        while self._position < offset:
            self._write(_ZEROES[: offset - self._position])

    def _write(self, data: bytes | memoryview) -> None:
        done = 0
        with memoryview(data) as left:
            while done < len(left):
                trio.from_thread.check_cancelled()
                try:
                    if self._is_regular:
                        done += os.pwrite(self._fd, left[done:], self._position + done)
                    else:
                        done += os.write(self._fd, left[done:])
                except BlockingIOError:
                    waiting = select.poll()
                    waiting.register(self._fd, select.POLLOUT)
                    waiting.poll(_LOOK_AGAIN)
                except OSError as error:
                    raise self._failed("write", error) from error
        self._position += done

    def _failed(self, verb: str, error: OSError | ValueError) -> CommandError:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        return CommandError(f"Could not {verb} '{self._path}': {cause}")

    def close(self) -> None:
        """Close it; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
