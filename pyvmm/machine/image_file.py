# SPDX-License-Identifier: MIT
"""Reading the files that a run needs: bounded, and with an error that says which and why."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pyvmm.errors import ImageError, NoInputError, NoPermissionError, SystemCallError


def read_image(path: Path, limit: int) -> bytes:
    """All of the file at `path`, at most `limit` bytes.

    Regular files and pipes. Raises `NoInputError` where there is none to read, `NoPermissionError`
    where this user may not, `ImageError` where it is longer than `limit` (guest memory, in bytes).
    """
    attempt = f"read {path}"
    try:
        # O_NONBLOCK: a FIFO that nobody writes to would make open wait for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as error:
        raise NoInputError(
            attempt, "no such file", "give a path, or a name that pyvmm guests lists"
        ) from error
    except PermissionError as error:
        raise NoPermissionError(attempt, "permission denied", "make it readable") from error
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise NoInputError(attempt, cause or str(error), "give a path to a file") from error
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise NoInputError(attempt, "it is a directory", "give a path to a file")
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
            raise NoInputError(attempt, "it is no regular file", "give a path to a file")
        if status.st_size > limit:
            raise _too_large(attempt, f"it has {status.st_size} bytes", limit)
        os.set_blocking(fd, True)
        try:
            return _read_all(fd, attempt, limit)
        except OSError as error:
            raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
    finally:
        os.close(fd)


def _read_all(fd: int, attempt: str, limit: int) -> bytes:
    chunks = []
    left = limit + 1
    while left and (chunk := os.read(fd, min(left, 1 << 24))):
        chunks.append(chunk)
        left -= len(chunk)
    if not left:
        raise _too_large(attempt, "it is longer", limit)
    return b"".join(chunks)


def _too_large(attempt: str, what: str, limit: int) -> ImageError:
    return ImageError(
        attempt,
        f"{what}, and the guest's memory takes {limit}",
        "give the guest more with --memory",
    )
