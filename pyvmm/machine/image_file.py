# SPDX-License-Identifier: MIT
"""Reading the files that a run needs: bounded, and with an error that says which and why."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyvmm import bundled_guests
from pyvmm.boot.recognise import BEGINNING, SizeLimit, size_limit
from pyvmm.errors import ImageError, NoInputError, NoPermissionError, SystemCallError

_CHUNK = 1 << 24


def read_image(path: Path) -> bytes:
    """All of the image at `path`: as much as an image that begins like it may have.

    Regular files and pipes, as in `read_input`. Raises what that raises.
    """
    return _read(path, size_limit, "give a path, or a name that pyvmm guests lists")


def guest_image(guest: str | Path) -> bytes:
    """The image of the guest at a path, or of the bundled guest of that name.

    A file counts before a name, as for ``pyvmm run``. Raises as `read_image` does.
    """
    return read_image(guest if isinstance(guest, Path) else image_path(guest))


def image_path(guest: str) -> Path:
    """The file that is meant: one of that name, or a bundled guest's. A folder is neither."""
    path = Path(guest)
    if os.path.lexists(path) and not path.is_dir():
        return path
    bundled = bundled_guests.find(guest)
    return bundled.path if bundled else path


def read_input(path: Path, most: int, than: str = "it may be", remedy: str = "") -> bytes:
    """All of the file at `path`, at most `most` bytes.

    Regular files and pipes; where nobody writes to a FIFO yet this waits, as ``cat`` does. Raises
    `NoInputError` where there is none to read, `NoPermissionError` where this user may not,
    `ImageError` where it is larger (`than` and `remedy` are for its text), `SystemCallError` where
    reading fails or there is no memory for it.
    """
    limit = SizeLimit(most, f"it is larger than {than}, {most} bytes", remedy)
    return _read(path, lambda _: limit, "give a path to a file")


def _read(path: Path, limit_of: Callable[[bytes], SizeLimit], absent: str) -> bytes:
    attempt = f"read {path}"
    with _opened(path, attempt, absent) as fd:
        try:
            # A FIFO is open before anybody writes; from then on, its end is an end.
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                _wait_for_writer(fd)
            os.set_blocking(fd, True)
            content = _read_up_to(fd, BEGINNING)
            limit = limit_of(content)
            size = max(os.fstat(fd).st_size, len(content))
            if size <= limit.most and len(content) == BEGINNING:
                content = _read_up_to(fd, limit.most + 1, content)
                size = len(content)
        except OSError as error:
            raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
        except MemoryError as error:
            raise SystemCallError(
                attempt, errno.ENOMEM, "there is no memory for it", "raise the limit (ulimit -v)"
            ) from error
    if size > limit.most:
        raise ImageError(attempt, limit.cause, limit.remedy)
    return content


@contextmanager
def _opened(path: Path, attempt: str, absent: str) -> Iterator[int]:
    """A descriptor of a regular file or a pipe, without waiting for anything.

    `absent` is what to do where there is no such file.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as error:
        raise NoInputError(attempt, "no such file", absent) from error
    except PermissionError as error:
        raise NoPermissionError(attempt, "permission denied", "make it readable") from error
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.errno == errno.ENXIO:
            cause = "it is a socket, or a device that is not there"
        raise NoInputError(attempt, cause or str(error), "give a path to a file") from error
    try:
        kind = _KINDS.get(stat.S_IFMT(os.fstat(fd).st_mode))
        if kind is not None:
            raise NoInputError(attempt, f"it is {kind}", "give a path to a file")
        yield fd
    finally:
        os.close(fd)


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device, no regular file",
    stat.S_IFBLK: "a block device, no regular file",
}
"""File types that can be opened but are not read as images."""


def _wait_for_writer(fd: int) -> None:
    """Return once somebody has written to the FIFO `fd`, or had it open for that (fifo(7)).

    Linux reports no hang-up where there has been no writer since `fd` was opened.
    """
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    poller.poll()


def _read_up_to(fd: int, size: int, beginning: bytes = b"") -> bytes:
    """`size` bytes, or as many as there are; `beginning` has been read already."""
    chunks = [beginning]
    left = size - len(beginning)
    while left > 0 and (chunk := os.read(fd, min(left, _CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
