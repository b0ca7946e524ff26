# SPDX-License-Identifier: MIT
"""A listening unix socket at a path: for its owner alone, nobody else's, and gone at the end."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyvmm.errors import UsageError
from pyvmm.hosts.owner import Owner
from pyvmm.machine.console.output_file import open_error

_PATH_SIZE = 108
"""Bytes of a socket's path with its zero byte (unix(7))."""
_LOCK_PATIENCE = 1.0
"""Seconds that others may keep the directory locked; who keeps it longer is none of us."""
_LOCK_PAUSE = 0.005


class UnixListener(Owner):
    """Owns a socket that listens at `path`, mode 0600 from its first moment on.

    A socket that nobody listens on any more is replaced, any other file is not. Closing removes
    the file, unless another one has taken its place. `attempt` is what it is for, in errors. Raises
    `UsageError`, `NoPermissionError` or `SystemCallError`.
    """

    def __init__(self, path: Path, attempt: str, *, backlog: int = 1) -> None:
        self.path = path
        if len(os.fsencode(path)) >= _PATH_SIZE:
            raise UsageError(
                attempt,
                f"the path is too long for a socket, at most {_PATH_SIZE - 1} bytes",
                "choose a shorter one, or one relative to the working directory",
            )
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # What bind makes has the mode of the socket it makes it for (Linux, unix_bind).
            os.fchmod(self.socket.fileno(), 0o600)
            with _alone_in(path.parent):
                _remove_stale(path, attempt)
                self.socket.bind(os.fspath(path))
                self._made = os.lstat(path)
                self.socket.listen(backlog)
        except OSError as error:
            self.socket.close()
            raise open_error(attempt, error) from error
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        """Stop listening and remove the socket. Idempotent."""
        if self.socket.fileno() < 0:
            return
        # As long as we listen nobody takes ours for stale, and no other file gets its number.
        with suppress(OSError), _alone_in(self.path.parent):
            if os.path.samestat(os.lstat(self.path), self._made):
                self.path.unlink()
        self.socket.close()


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keep the others of our kind from looking for, or replacing, a stale socket meanwhile."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + _LOCK_PATIENCE
        while time.monotonic() < until:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE)
            except OSError:
                break  # A file system without locks.
            else:
                break
        yield
    finally:
        os.close(fd)


def _remove_stale(path: Path, attempt: str) -> None:
    """Remove a socket that nobody listens on; raises `UsageError` for whatever else is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise UsageError(attempt, "a file of that name exists", "name another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # Otherwise a listener with a full queue would keep us waiting.
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise UsageError(attempt, "another program listens there", "name another path")
