# SPDX-License-Identifier: MIT
"""Opening the files of disks: every reason for which one cannot be a disk."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from pyvmm.devices.virtio.block import SECTOR
from pyvmm.errors import (
    HostLacksError,
    ImageError,
    NoInputError,
    NoPermissionError,
    SystemCallError,
    UsageError,
)
from pyvmm.machine.disks.formats import format_of
from pyvmm.machine.disks.locks import lock_disk
from pyvmm.machine.disks.raw import RawStore
from pyvmm.machine.hardware import Disk, DiskFormat

_BEGINNING: Final = 4096
_NEITHER: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def open_disk(disk: Disk) -> RawStore:
    """Open and lock a disk's file, a regular one or a block device.

    Raises `NoInputError`, `NoPermissionError`, `ImageError` for a size that no disk has,
    `UsageError` for one that looks like another format, `HostLacksError` for a format that nothing
    here reads, and `SystemCallError`, also where somebody else has it.
    """
    attempt = f"open the disk {disk.path}"
    if disk.format is DiskFormat.QCOW2:
        raise HostLacksError(
            attempt,
            "there is nothing here that reads qcow2",
            f"convert it with qemu-img convert -O raw {disk.path} NEW",
        )
    fd = _open(disk, attempt)
    try:
        size = _size(fd, disk.path, attempt)
        if disk.format is None:
            _require_raw(fd, attempt)
        lock_disk(fd, disk.path, writes=not disk.read_only)
        return RawStore(fd, size)
    except BaseException:
        os.close(fd)
        raise


def _open(disk: Disk, attempt: str) -> int:
    access = os.O_RDONLY if disk.read_only else os.O_RDWR
    try:
        # A pipe or a terminal is seen for what it is, and waited for or taken by nobody.
        return os.open(disk.path, access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError as error:
        raise NoInputError(
            attempt, "no such file", f"make one with truncate -s 1G {disk.path}"
        ) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "make it readable"
            if not disk.read_only:
                remedy = "make it readable and writable, or give readonly=on"
            raise NoPermissionError(attempt, (error.strerror or "").lower(), remedy) from error
        if error.errno in (errno.EISDIR, errno.ENXIO, errno.ENOTDIR, errno.ELOOP):
            cause = _kind_of(disk.path) or error.strerror or ""
            raise NoInputError(attempt, cause, _WHICH) from error
        raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
    except ValueError as error:
        raise NoInputError(attempt, str(error), _WHICH) from error


_WHICH: Final = "give a regular file or a block device"


def _kind_of(path: Path) -> str:
    """Tell what a path is that no disk can be, "" where that is not known."""
    try:
        kind = _NEITHER.get(stat.S_IFMT(path.stat().st_mode), "")
    except OSError:
        return ""
    return f"it is {kind}" if kind else ""


def _size(fd: int, path: Path, attempt: str) -> int:
    """Size in bytes: whole sectors, and one at least."""
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise NoInputError(attempt, f"it is {_NEITHER[stat.S_IFMT(mode)]}", _WHICH)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        # A file of /proc, which has no end.
        raise NoInputError(attempt, "it has no size", _WHICH) from error
    if not size:
        raise ImageError(attempt, "it is empty", f"make it larger with truncate -s 1G {path}")
    if size % SECTOR:
        padded = -(-size // SECTOR) * SECTOR
        raise ImageError(
            attempt,
            f"it has {size} bytes, and a disk has whole sectors of {SECTOR}",
            f"pad it with truncate -s {padded} {path}",
        )
    return size


def _require_raw(fd: int, attempt: str) -> None:
    try:
        beginning = os.pread(fd, _BEGINNING, 0)
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or "") from error
    found = format_of(beginning)
    if found:
        raise UsageError(
            attempt,
            f"it begins like a {found} image, and a disk's format is never guessed",
            "give format=raw for the bytes as they are"
            + (", or format=qcow2" if found == DiskFormat.QCOW2.value else ""),
        )
