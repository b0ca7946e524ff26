# SPDX-License-Identifier: MIT
"""Open files and directories of a shared folder."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from pyvmm.devices.p9.fields import Qid, QidKind
from pyvmm.devices.p9.file_server import Entry, LockRange, LockStatus, LockType
from pyvmm.machine.share.folder import Folder, identity_of

OFFSET_END: Final = 1 << 63
_MOST_VIEWS: Final = 1024
"""IOV_MAX."""
_LOCK: Final = struct.Struct("hh4xqqi4x")
"""struct flock of x86-64."""
MOST_LOCKS: Final = 1024
"""Ranges of one open file that are locked, or unlocked within others: the host's kernel has memory
for each, and no limit of its own."""
_DT_DIRECTORY, _DT_FILE, _DT_LINK = 4, 8, 10
_DEVICE_SHIFT: Final = 48


def qid_of(folder: Folder, state: os.stat_result) -> Qid:
    """The qid of a file: of its inode number, the number of its file system, and its time."""
    return Qid(
        _kind(state.st_mode),
        (state.st_mtime_ns >> 8 ^ state.st_size << 8) & 0xFFFF_FFFF,
        _qid_path(folder, state.st_dev, state.st_ino),
    )


def _kind(mode: int) -> QidKind:
    if stat.S_ISDIR(mode):
        return QidKind.DIRECTORY
    return QidKind.SYMLINK if stat.S_ISLNK(mode) else QidKind.FILE


def _qid_path(folder: Folder, device: int, inode: int) -> int:
    # The shared folder's own file system has number 0, and so inode numbers as they are. Of others
    # the upper bits are mixed: no more than that a number were given twice can come of it.
    return (inode ^ folder.number_of(device) << _DEVICE_SHIFT) & 0xFFFF_FFFF_FFFF_FFFF


class HostFile:
    """`pyvmm.devices.p9.file_server.OpenFile`: a regular file or a directory that is open."""

    def __init__(self, folder: Folder, descriptor: int) -> None:
        """The descriptor is this object's from now on; the folder has counted it."""
        self._folder = folder
        self._descriptor = descriptor
        self._locks: frozenset[LockRange] = frozenset()

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Read from `offset` in bytes on."""
        _check_offset(offset)
        return os.preadv(self._descriptor, views[:_MOST_VIEWS], offset) if views else 0

    def write(self, views: Sequence[memoryview], offset: int) -> int:
        """Write to `offset` in bytes, or to the end where it was opened so."""
        _check_offset(offset)
        return os.pwritev(self._descriptor, views[:_MOST_VIEWS], offset) if views else 0

    def entries(self) -> Iterator[Entry]:
        """List the directory as it is now."""
        here = os.fstat(self._descriptor)
        if not stat.S_ISDIR(here.st_mode):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return self._entries(here)

    def _entries(self, here: os.stat_result) -> Iterator[Entry]:
        above = here
        if identity_of(here) != self._folder.root_identity:
            above = os.stat(b"..", dir_fd=self._descriptor)
        yield Entry(qid_of(self._folder, here), _DT_DIRECTORY, b".")
        yield Entry(qid_of(self._folder, above), _DT_DIRECTORY, b"..")
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        # It has a descriptor of its own until it has come to its end.
        self._folder.count_file()
        try:
            with os.scandir(self._descriptor) as found:
                for entry in found:
                    kind, type_number = _kind_of_entry(entry)
                    path = _qid_path(self._folder, here.st_dev, entry.inode())
                    yield Entry(Qid(kind, 0, path), type_number, os.fsencode(entry.name))
        finally:
            self._folder.uncount_file()

    def sync(self, *, data_only: bool) -> None:
        """Flush it to the host's disk."""
        (os.fdatasync if data_only else os.fsync)(self._descriptor)

    def lock(self, kind: LockType, where: LockRange) -> LockStatus:
        """Lock the range for this open file: other opens of it, the host's among them, see that."""
        kept = frozenset(one for one in self._locks if not _is_within(one, where))
        if kind is not LockType.NONE or any(_overlap(one, where) for one in kept):
            kept |= {where}
        if len(kept) > MOST_LOCKS:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        try:
            fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _lock_bytes(kind, where))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return LockStatus.BLOCKED
            raise
        self._locks = kept
        return LockStatus.DONE

    def locked_by_another(self, kind: LockType, where: LockRange) -> tuple[LockType, LockRange]:
        """Look for a lock of another open file that is in the way of `kind`."""
        if kind is LockType.NONE:
            raise OSError(errno.EINVAL, "no kind of lock")
        found = fcntl.fcntl(self._descriptor, fcntl.F_OFD_GETLK, _lock_bytes(kind, where))
        number, _, start, length, _ = _LOCK.unpack(found)
        if number == LockType.NONE:
            return LockType.NONE, where
        return LockType(number), LockRange(start, length)

    def close(self) -> None:
        """Close it; a lock goes with it."""
        os.close(self._descriptor)
        self._folder.uncount_file()


def _check_offset(offset: int) -> None:
    if offset >= OFFSET_END:
        raise OSError(errno.EINVAL, "beyond any file")


def _end(where: LockRange) -> int:
    return where.start + where.length if where.length else OFFSET_END


def _is_within(one: LockRange, other: LockRange) -> bool:
    return other.start <= one.start and _end(one) <= _end(other)


def _overlap(one: LockRange, other: LockRange) -> bool:
    return one.start < _end(other) and other.start < _end(one)


def _lock_bytes(kind: LockType, where: LockRange) -> bytes:
    _check_offset(where.start)
    _check_offset(where.length)
    return _LOCK.pack(kind, os.SEEK_SET, where.start, where.length, 0)


def _kind_of_entry(entry: os.DirEntry[str]) -> tuple[QidKind, int]:
    try:
        if entry.is_symlink():
            return QidKind.SYMLINK, _DT_LINK
        if entry.is_dir(follow_symlinks=False):
            return QidKind.DIRECTORY, _DT_DIRECTORY
        if entry.is_file(follow_symlinks=False):
            return QidKind.FILE, _DT_FILE
    except OSError:
        pass  # It has gone meanwhile; its name is still told.
    return QidKind.FILE, 0
