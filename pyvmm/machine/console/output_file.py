# SPDX-License-Identifier: MIT
"""A file to write to: opened early, so that a bad path is told at once; emptied only when used."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import suppress
from pathlib import Path

from pyvmm.errors import NoPermissionError, SystemCallError, UsageError
from pyvmm.hosts.owner import Owner


class OutputFile(Owner):
    """Owns a file opened for writing: a regular file, or a FIFO or device that is there.

    A file that it made itself and that was never used is removed again. With `append` a file is not
    emptied. Raises `UsageError`, `NoPermissionError` or `SystemCallError`.
    """

    def __init__(self, path: Path, attempt: str, *, append: bool = False) -> None:
        self._append = append
        self._attempt = attempt
        self._path = path
        self._new = not os.path.lexists(path)
        try:
            # O_NONBLOCK: opening a FIFO that nobody reads would wait for ever.
            self._fd = os.open(
                path,
                os.O_WRONLY
                | os.O_CREAT
                | os.O_CLOEXEC
                | os.O_NONBLOCK
                | os.O_NOCTTY
                | (os.O_APPEND if append else 0),
                0o666,
            )
        except OSError as error:
            raise _no_peer(path, attempt, error) or open_error(attempt, error) from error

    def use(self) -> int:
        """The file descriptor, which stays this object's; a regular file is empty now."""
        self._new = False
        if not self._append and stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.ftruncate(self._fd, 0)
        return self._fd

    def take_alone(self) -> None:
        """Have a regular file for this object alone, among those that ask for that.

        Raises `UsageError` where another one has it, in whatever process.
        """
        if stat.S_ISREG(os.fstat(self._fd).st_mode):
            take_alone(self._fd, self._attempt)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1
        if self._new:
            with suppress(OSError):
                self._path.unlink()


def take_alone(fd: int, attempt: str) -> None:
    """Lock the file of `fd` (flock(2)), as long as that or a copy of it is open.

    A file system without locks has none, and nobody is kept away. Raises `UsageError` where another
    description of it is locked.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(attempt, "somebody writes to it already", "name another file") from error
    except OSError:
        pass


def _no_peer(path: Path, attempt: str, error: OSError) -> SystemCallError | None:
    """Make the error for an ENXIO of open(2): what is at `path` leads nowhere; None for others."""
    if error.errno != errno.ENXIO:
        return None
    if path.is_fifo():
        return SystemCallError(
            attempt, errno.ENXIO, "it is a FIFO that nobody reads", "start its reader first"
        )
    return SystemCallError(
        attempt, errno.ENXIO, "it is a socket, or a device that is not there", "name another file"
    )


def open_error(attempt: str, error: OSError) -> SystemCallError | NoPermissionError | UsageError:
    """Make the error to raise for a path that was given to us and cannot be written to."""
    cause = error.strerror or str(error)
    if isinstance(error, PermissionError):
        return NoPermissionError(attempt, cause, "choose a path that you may write to")
    if isinstance(error, IsADirectoryError):
        return UsageError(attempt, cause, "name a file in it")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return UsageError(attempt, cause, "choose a path in a directory that exists")
    return SystemCallError(attempt, error.errno or 0, cause)
