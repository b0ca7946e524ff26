# SPDX-License-Identifier: MIT
"""A shared folder: its root, and the descriptors of what the guest holds in it.

A handle is an O_PATH descriptor, which can read and write nothing. The guest may hold more of them
than a process may have files open: those that were not used for longest are closed, and found
again by their names from the root on when they are wanted. What is there then has to be the same
file, or the handle is stale.
"""

from __future__ import annotations

import errno
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from pyvmm.devices.p9.fids import is_name
from pyvmm.errors import NoInputError, NoPermissionError, PyvmmError, SystemCallError

PATH_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
FEWEST_DESCRIPTORS: Final = 16
DEEPEST: Final = 1024
"""Names from the root to a handle: nothing deeper is held."""
MOST_IN_NAMES: Final = 128 << 20
"""Bytes that the names of all handles of a folder may take: a guest chooses how many there are."""
_EACH_NAME: Final = 64
"""Bytes that a name takes beside its own: the object, and a place in its tuple."""


class Identity(NamedTuple):
    """Identity of a file: device and inode number."""

    device: int
    inode: int


class Held(Protocol):
    """A handle, as the folder sees it; it is one thing with itself alone (`object`'s equality)."""

    names: tuple[bytes, ...]
    identity: Identity


class Folder:
    """Root of a shared folder, and the owner of all descriptors in it.

    `descriptors` is the most that handles take, those of removed files among them, and the most
    that open files take.
    """

    def __init__(self, root: int, *, read_only: bool, descriptors: int) -> None:
        """`root` is an O_PATH descriptor of a directory, which is the folder's from now on."""
        self.root_descriptor = root
        self.read_only = read_only
        self.root_identity = identity_of(os.fstat(root))
        self._most = max(descriptors, FEWEST_DESCRIPTORS)
        self._open_files = 0
        self._descriptors: OrderedDict[Held, int] = OrderedDict()
        self._unlinked: dict[Held, int] = {}
        self._held: dict[tuple[bytes, ...], set[Held]] = {}
        self._in_names = 0
        self._devices = {self.root_identity.device: 0}

    def close(self) -> None:
        """Let go of the root. The handles have been closed before."""
        os.close(self.root_descriptor)

    # -- handles --

    def hold(self, handle: Held, descriptor: int) -> None:
        """Take a new handle and its descriptor.

        Raises `OSError` where it lies too deep, or its name is too much; the descriptor is open.
        """
        if len(handle.names) > DEEPEST:
            raise OSError(errno.ENAMETOOLONG, "it lies too deep")
        self._add_names(_bytes_of(handle.names))
        self._held.setdefault(handle.names, set()).add(handle)
        self._keep(handle, descriptor)

    def let_go(self, handle: Held) -> None:
        """Forget a handle and close its descriptor."""
        self._forget_name(handle)
        for kept in (self._descriptors, self._unlinked):
            descriptor = kept.pop(handle, None)
            if descriptor is not None:
                os.close(descriptor)

    def descriptor(self, handle: Held) -> int:
        """The O_PATH descriptor of a handle: good until the second call after this one.

        Raises `OSError`: ESTALE where it is not under its names any more.
        """
        unlinked = self._unlinked.get(handle)
        if unlinked is not None:
            return unlinked
        descriptor = self._descriptors.get(handle)
        if descriptor is None:
            descriptor = self._found_again(handle)
            self._keep(handle, descriptor)
        self._descriptors.move_to_end(handle)
        return descriptor

    def _keep(self, handle: Held, descriptor: int) -> None:
        self._descriptors[handle] = descriptor
        while len(self._descriptors) > self._most - len(self._unlinked):
            os.close(self._descriptors.popitem(last=False)[1])

    def _found_again(self, handle: Held) -> int:
        descriptor = os.open(b".", PATH_FLAGS | os.O_DIRECTORY, dir_fd=self.root_descriptor)
        for name in handle.names:
            try:
                nearer = os.open(name, PATH_FLAGS, dir_fd=descriptor)
            except (FileNotFoundError, NotADirectoryError):
                raise OSError(errno.ESTALE, "not there any more") from None
            finally:
                os.close(descriptor)
            descriptor = nearer
        if identity_of(os.fstat(descriptor)) != handle.identity:
            os.close(descriptor)
            raise OSError(errno.ESTALE, "another file has its name")
        return descriptor

    def _add_names(self, more: int) -> None:
        if more > 0 and self._in_names + more > MOST_IN_NAMES:
            raise OSError(errno.ENOMEM, "too many names")
        self._in_names += more

    def _forget_name(self, handle: Held) -> None:
        same = self._held.get(handle.names)
        if same is not None:
            self._in_names -= _bytes_of(handle.names)
            same.discard(handle)
            if not same:
                del self._held[handle.names]

    # -- names that change --

    @contextmanager
    def unlinking(self, names: tuple[bytes, ...]) -> Iterator[None]:
        """Keep the descriptors of what has these names: after the block nothing may have them.

        Beyond half of the descriptors there is no keeping: such handles become stale.
        """
        kept: list[Held] = []
        for handle in self._held.get(names, set()) - self._unlinked.keys():
            if len(self._unlinked) + len(kept) < self._most // 2:
                with suppress(OSError):
                    self.descriptor(handle)
                    kept.append(handle)
        yield
        for handle in kept:
            descriptor = self._descriptors.pop(handle, None)
            if descriptor is not None:
                self._unlinked[handle] = descriptor

    def is_unlinked(self, handle: Held) -> bool:
        """Tell whether nothing has the handle's names any more, as far as is known."""
        return handle in self._unlinked

    @contextmanager
    def renaming(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> Iterator[None]:
        """Have the handles at `old` and below it at `new` after the block, and no others there.

        Raises `OSError` before the block where their names would take too much.
        """
        depth = len(old)
        below = [names for names in self._held if names[:depth] == old]
        longer = _bytes_of(new) - _bytes_of(old)
        more = longer * sum(len(self._held[names]) for names in below)
        self._add_names(more)
        try:
            with self.unlinking(new):
                yield
        except OSError:
            self._in_names -= more
            raise
        for names in below:
            moved = new + names[depth:]
            handles = self._held.pop(names)
            self._held.setdefault(moved, set()).update(handles)
            for handle in handles:
                handle.names = moved

    # -- open files --

    def count_file(self) -> None:
        """Count a file that is about to be opened. Raises `OSError` beyond the most."""
        if self._open_files >= self._most:
            raise OSError(errno.ENFILE, "too many open files")
        self._open_files += 1

    def uncount_file(self) -> None:
        """Count one less."""
        self._open_files -= 1

    def number_of(self, device: int) -> int:
        """Small number for a file system, so that inode numbers of several can be told apart."""
        return self._devices.setdefault(device, len(self._devices))


def _bytes_of(names: tuple[bytes, ...]) -> int:
    return sum(map(len, names)) + _EACH_NAME * len(names)


def identity_of(state: os.stat_result) -> Identity:
    """The identity in a file's status."""
    return Identity(state.st_dev, state.st_ino)


def open_folder(path: Path, *, read_only: bool, descriptors: int) -> Folder:
    """Open the folder `path` to be shared; closed by its owner.

    Raises `NoInputError` where there is none, `NoPermissionError`, `SystemCallError`.
    """
    try:
        root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _cannot_share(path, error) from error
    try:
        needed = (os.R_OK if read_only else os.R_OK | os.W_OK) | os.X_OK
        if not os.access(f"/proc/self/fd/{root}", needed):
            missing = errno.EACCES if os.path.exists("/proc/self/fd") else errno.ENOSYS  # noqa: PTH110
            raise OSError(missing, os.strerror(missing))
        return Folder(root, read_only=read_only, descriptors=descriptors)
    except OSError as error:
        os.close(root)
        raise _cannot_share(path, error) from error


def _cannot_share(path: Path, error: OSError) -> PyvmmError:
    attempt, cause = f"share the folder {path}", error.strerror or str(error)
    if error.errno == errno.ENOENT:
        return NoInputError(attempt, "there is none", "make it, or name another one")
    if error.errno == errno.ELOOP:
        return NoInputError(attempt, cause.lower(), "name a folder")
    if error.errno == errno.ENOTDIR:
        return NoInputError(attempt, "it is no folder", "name the folder that it is in")
    if error.errno in (errno.EACCES, errno.EPERM):
        return NoPermissionError(attempt, cause, "name a folder that you may read and enter")
    if error.errno == errno.ENOSYS:
        return SystemCallError(attempt, 0, "there is no /proc/self/fd", "mount /proc")
    return SystemCallError(attempt, error.errno or 0, cause)


def reopened(descriptor: int) -> str:
    """The path by which the very file of an O_PATH descriptor is reached, whatever its name is."""
    return f"/proc/self/fd/{descriptor}"


def only_name(name: bytes) -> bytes:
    """`name`, if it can be one of an entry. Raises `OSError` for what would be a path, or none."""
    if not is_name(name):
        raise OSError(errno.EINVAL, "no name of an entry")
    return name
