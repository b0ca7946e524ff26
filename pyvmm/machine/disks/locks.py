# SPDX-License-Identifier: MIT
"""Locks on disks' files: one writer, or readers; QEMU's count, too.

Locks of open file descriptions (fcntl(2), ``F_OFD_SETLK``), which end with the description. A
writer locks the whole file. A reader locks what QEMU's readers lock (``block/file-posix.c``,
``raw_apply_lock_bytes`` and ``raw_check_lock_bytes``): a byte for each thing that it does, and a
byte for each thing that nobody else may do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from pyvmm.errors import SystemCallError

_FLOCK: Final = struct.Struct("@hhqqi0q")
"""``struct flock``: type, whence, start, length, PID."""
_DOES: Final = 100
_DOES_NOT_SHARE: Final = 200
_READING, _WRITING, _RESIZING = 0, 1, 3
_LOCKED: Final = re.compile(r"^lock:", re.MULTILINE)


def lock_disk(fd: int, path: Path, *, writes: bool) -> None:
    """Lock the file of `fd` until it is closed, to write to it or to read only. Never waits.

    Raises `SystemCallError`, which names the process that has it where that can be seen.
    """
    try:
        if writes:
            _lock(fd, fcntl.F_WRLCK, 0, 0)
            return
        _lock(fd, fcntl.F_RDLCK, _DOES + _READING, 1)
        for act in (_WRITING, _RESIZING):
            _lock(fd, fcntl.F_RDLCK, _DOES_NOT_SHARE + act, 1)
        # Behind our own locks: of two that come together, one at least sees the other.
        if any(_is_locked(fd, _DOES + act) for act in (_WRITING, _RESIZING)):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    except (BlockingIOError, PermissionError) as error:
        raise SystemCallError(
            f"lock the disk {path}",
            error.errno or 0,
            f"it is in use by {_holder(fd)}",
            "let one have it alone, or all of them with readonly=on",
        ) from error
    except OSError as error:
        cause = f"its file system has no such locks ({error.strerror})"
        raise SystemCallError(
            f"lock the disk {path}", error.errno or 0, cause, "copy it to another file system"
        ) from error


def _lock(fd: int, kind: int, start: int, length: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, length, 0))


def _is_locked(fd: int, byte: int) -> bool:
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind: int = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0]
    return kind != fcntl.F_UNLCK


def _holder(fd: int) -> str:
    """Tell who has a lock: the kernel does not say, but shows each process its own."""
    for process, number in _open_elsewhere(fd):
        if process == os.getpid():
            if number != fd:
                return "another disk of this machine"
        elif _is_holder(process, number):
            return f"process {process}"
    return "another process"


def _open_elsewhere(fd: int) -> Iterator[tuple[int, int]]:
    """PIDs and descriptors that have the file of `fd` open, of processes that may be looked at."""
    own = os.fstat(fd)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for open_one in (process / "fd").iterdir():
                with suppress(OSError):  # It may be closed by now.
                    if os.path.samestat(own, open_one.stat()):
                        yield int(process.name), int(open_one.name)
        except OSError:
            continue


def _is_holder(process: int, number: int) -> bool:
    try:
        return bool(_LOCKED.search(Path(f"/proc/{process}/fdinfo/{number}").read_text("ascii")))
    except OSError:
        return False
