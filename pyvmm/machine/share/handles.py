# SPDX-License-Identifier: MIT
"""Handles of a shared folder: what 9P's session does with files, by system calls.

Each call goes by a descriptor and one name, never by a path, and follows no symbolic link. Only
regular files and directories are opened: a device or a FIFO would act on the host (CVE-2023-2861).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pyvmm.devices.p9.file_server import Attributes, FileSystem, Handle, NewAttributes, Valid
from pyvmm.machine.share.folder import DEEPEST, PATH_FLAGS, Folder, identity_of, only_name, reopened
from pyvmm.machine.share.open_files import OFFSET_END, HostFile, qid_of

_V9FS_MAGIC: Final = 0x01021997
_OPEN_FLAGS: Final = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND | os.O_DSYNC | os.O_SYNC
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_PERMISSIONS: Final = 0o7777
_AGAIN: Final = 8
"""Tries to open or make a file that others make and remove meanwhile."""


class HostHandle:
    """`pyvmm.devices.p9.file_server.Handle`: an O_PATH descriptor, or the names that lead there."""

    def __init__(self, folder: Folder, names: tuple[bytes, ...], descriptor: int) -> None:
        """The descriptor is the folder's from now on. Raises `OSError`, and has closed it then."""
        try:
            state = os.fstat(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        self._folder = folder
        self.names = names
        self.identity = identity_of(state)
        self.qid = qid_of(folder, state)
        self._type = stat.S_IFMT(state.st_mode)
        try:
            folder.hold(self, descriptor)
        except OSError:
            os.close(descriptor)
            raise

    @property
    def _descriptor(self) -> int:
        return self._folder.descriptor(self)

    @property
    def _reopened(self) -> str:
        return reopened(self._descriptor)

    def _for_change(self) -> int:
        if self._folder.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self._descriptor

    def _set_mode(self, mode: int) -> None:
        Path(self._reopened).chmod(mode & _PERMISSIONS)

    def path(self) -> tuple[bytes, ...] | None:
        """Names from the root on."""
        return None if self._folder.is_unlinked(self) else self.names

    def clone(self) -> HostHandle:
        """Another handle of the same."""
        return HostHandle(self._folder, self.names, os.dup(self._descriptor))

    def close(self) -> None:
        """Let go of it."""
        self._folder.let_go(self)

    def walk(self, name: bytes) -> HostHandle:
        """Go to an entry, or up by ``..``, not beyond the root."""
        if name == b"..":
            return self._above()
        descriptor = os.open(only_name(name), PATH_FLAGS, dir_fd=self._descriptor)
        return HostHandle(self._folder, (*self.names, name), descriptor)

    def _above(self) -> HostHandle:
        if self.identity == self._folder.root_identity:
            return self.clone()
        descriptor = os.open(b"..", PATH_FLAGS | os.O_DIRECTORY, dir_fd=self._descriptor)
        try:
            if not self._is_inside(descriptor):
                # The host has moved the directory out of the folder.
                raise OSError(errno.EACCES, "above it is not in the folder")
        except OSError:
            os.close(descriptor)
            raise
        return HostHandle(self._folder, self.names[:-1], descriptor)

    def _is_inside(self, descriptor: int) -> bool:
        at = os.dup(descriptor)
        try:
            for _ in range(DEEPEST):
                if identity_of(os.fstat(at)) == self._folder.root_identity:
                    return True
                above = os.open(b"..", PATH_FLAGS | os.O_DIRECTORY, dir_fd=at)
                is_top = identity_of(os.fstat(above)) == identity_of(os.fstat(at))
                os.close(at)
                at = above
                if is_top:
                    return False
            return False
        finally:
            os.close(at)

    # -- attributes --

    def attributes(self) -> Attributes:
        """Status of the file now."""
        state = os.fstat(self._descriptor)
        return Attributes(
            qid_of(self._folder, state), state.st_mode, state.st_uid, state.st_gid, state.st_nlink,
            state.st_rdev, state.st_size, state.st_blksize, state.st_blocks,
            max(state.st_atime_ns, 0), max(state.st_mtime_ns, 0), max(state.st_ctime_ns, 0),
        )  # fmt: skip

    def change(self, wanted: NewAttributes) -> None:
        """Set attributes, the owner first: that takes permissions away."""
        self._for_change()
        valid = wanted.valid
        if Valid.SIZE in valid:
            self._check_can_have(wanted.size)
        if Valid.MODE in valid:
            self._check_mode(wanted.mode)
        if valid & (Valid.UID | Valid.GID):
            uid = wanted.uid if Valid.UID in valid else -1
            gid = wanted.gid if Valid.GID in valid else -1
            os.chown(self._reopened, uid, gid)
        if Valid.MODE in valid:
            self._set_mode(wanted.mode)
        if Valid.SIZE in valid:
            os.truncate(self._reopened, wanted.size)
        if valid & (Valid.ATIME | Valid.MTIME):
            self._set_times(wanted)

    def _check_can_have(self, size: int) -> None:
        if self._type != stat.S_IFREG:
            raise OSError(errno.EISDIR if self._type == stat.S_IFDIR else errno.EINVAL, "no file")
        if size >= OFFSET_END:
            raise OSError(errno.EINVAL, "beyond any file")

    def _check_mode(self, mode: int) -> None:
        if self._type == stat.S_IFLNK:
            raise OSError(errno.EOPNOTSUPP, "links have no permissions")
        if self._type != stat.S_IFDIR:
            _refuse_set_id(mode)

    def _set_times(self, wanted: NewAttributes) -> None:
        state = os.fstat(self._descriptor)
        now = time.time_ns()
        atime, mtime = state.st_atime_ns, state.st_mtime_ns
        if Valid.ATIME in wanted.valid:
            atime = wanted.atime if Valid.ATIME_SET in wanted.valid else now
        if Valid.MTIME in wanted.valid:
            mtime = wanted.mtime if Valid.MTIME_SET in wanted.valid else now
        if max(atime, mtime) >= OFFSET_END:
            raise OSError(errno.EINVAL, "beyond any time")
        os.utime(self._reopened, ns=(atime, mtime))

    def file_system(self) -> FileSystem:
        """The file system's size and what is free of it."""
        found = os.statvfs(self._descriptor)
        return FileSystem(
            _V9FS_MAGIC, found.f_frsize & 0xFFFF_FFFF, found.f_blocks, found.f_bfree,
            found.f_bavail, found.f_files, found.f_ffree, found.f_fsid & (2 * OFFSET_END - 1),
            found.f_namemax,
        )  # fmt: skip

    def read_link(self) -> bytes:
        """Text of a symbolic link; what it names is the guest's to find."""
        return os.readlink(b"", dir_fd=self._descriptor)

    # -- open files --

    def open(self, flags: int) -> HostFile:
        """Open the very file that is held."""
        if self._type not in (stat.S_IFREG, stat.S_IFDIR):
            raise OSError(errno.ENXIO, "neither a file nor a directory")
        kept = self._kept(flags)
        with self._counted():
            return HostFile(self._folder, os.open(self._reopened, kept))

    def create(self, name: bytes, flags: int, mode: int) -> tuple[Handle, HostFile]:
        """Make a file and open it, or open the one that is there."""
        self._for_change()
        _refuse_set_id(mode)
        for _ in range(_AGAIN):
            with suppress(FileExistsError):
                return self._create(only_name(name), self._kept(flags), mode)
            if flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            with suppress(FileNotFoundError):
                return self._open_entry(name, flags)
        raise OSError(errno.ESTALE, "others make and remove it")

    def _create(self, name: bytes, flags: int, mode: int) -> tuple[Handle, HostFile]:
        # Open from the start: whoever makes a file may write to it, whatever its mode says.
        new = flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with self._counted():
            descriptor = os.open(name, new, mode & _PERMISSIONS, dir_fd=self._descriptor)
            file = HostFile(self._folder, descriptor)
        try:
            os.fchmod(descriptor, mode & _PERMISSIONS)
            handle = self.walk(name)
            if handle.identity != identity_of(os.fstat(descriptor)):
                handle.close()
                raise OSError(errno.ESTALE, "another file has its name")
        except FileNotFoundError:
            file.close()
            raise OSError(errno.ESTALE, "it was removed") from None
        except OSError:
            file.close()
            raise
        return handle, file

    def _open_entry(self, name: bytes, flags: int) -> tuple[Handle, HostFile]:
        handle = self.walk(name)
        try:
            return handle, handle.open(flags)
        except OSError:
            handle.close()
            raise

    def _kept(self, flags: int) -> int:
        """Flags for open(2) of what a client asks for."""
        access = flags & os.O_ACCMODE
        if access == os.O_ACCMODE:
            raise OSError(errno.EINVAL, "no way to open")
        if self._folder.read_only and (access != os.O_RDONLY or flags & os.O_TRUNC):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        # Some of /proc and /sys are regular files, and a read waits for somebody to write.
        return flags & _OPEN_FLAGS | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._folder.count_file()
        try:
            yield
        except OSError:
            self._folder.uncount_file()
            raise

    # -- entries --

    def make_directory(self, name: bytes, mode: int) -> HostHandle:
        """Make a directory with these permissions, whatever this process's umask is."""
        os.mkdir(only_name(name), mode & _PERMISSIONS, dir_fd=self._for_change())
        handle = self.walk(name)
        if handle._type == stat.S_IFDIR:
            handle._set_mode(mode)
        return handle

    def make_node(self, name: bytes, mode: int) -> HostHandle:
        """Make a FIFO, a socket's name or a file. A device would be one of the host's."""
        directory = self._for_change()
        kind = stat.S_IFMT(mode)
        if kind not in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG, 0):
            raise OSError(errno.EPERM, "no devices here")
        _refuse_set_id(mode)
        os.mknod(only_name(name), mode & (_PERMISSIONS | kind), dir_fd=directory)
        handle = self.walk(name)
        if handle._type == kind or (not kind and handle._type == stat.S_IFREG):
            handle._set_mode(mode)
        return handle

    def symlink(self, name: bytes, target: bytes) -> HostHandle:
        """Make a symbolic link, whatever its text is."""
        if not target or b"\0" in target:
            raise OSError(errno.EINVAL, "no text of a link")
        os.symlink(target, only_name(name), dir_fd=self._for_change())
        return self.walk(name)

    def link(self, file: Handle, name: bytes) -> None:
        """Make another name of `file`."""
        directory = self._for_change()
        os.link(_same(file)._reopened, only_name(name), dst_dir_fd=directory)

    def rename(self, name: bytes, directory: Handle, new_name: bytes) -> None:
        """Rename an entry; one that has the new name is gone then."""
        source, there = self._for_change(), _same(directory)
        old, new = (*self.names, only_name(name)), (*there.names, only_name(new_name))
        if old == new:
            os.stat(name, dir_fd=source, follow_symlinks=False)
            return
        with self._folder.renaming(old, new):
            os.rename(name, new_name, src_dir_fd=self._descriptor, dst_dir_fd=there._descriptor)

    def unlink(self, name: bytes, *, is_directory: bool) -> None:
        """Remove an entry."""
        self._for_change()
        with self._folder.unlinking((*self.names, only_name(name))):
            (os.rmdir if is_directory else os.unlink)(name, dir_fd=self._descriptor)


class HostFolder:
    """`pyvmm.devices.p9.file_server.FileServer` of a folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def root(self) -> HostHandle:
        """A handle of the root."""
        return HostHandle(self._folder, (), os.dup(self._folder.root_descriptor))


def _same(handle: Handle) -> HostHandle:
    # A session has one file server, and it is this one.
    assert isinstance(handle, HostHandle)
    return handle


def _refuse_set_id(mode: int) -> None:
    if mode & _SET_ID:
        raise OSError(errno.EPERM, "no set-user-ID files")
