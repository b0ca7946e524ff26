# SPDX-License-Identifier: MIT
"""Names of network namespaces: files that they are mounted on, with an owner mark in them.

As ``ip netns`` makes them (ip-netns(8)), but for the file, which is empty there. Here it has a mark
from its first moment on, so that whatever a killed process leaves behind says whose it is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyvmm.errors import NoPermissionError, SystemCallError, UsageError
from pyvmm.net.marks import LONGEST, Mark, mark_of
from pyvmm.net.namespaces import NAMES, own_namespace

_BIND: Final = 1 << 12
_REC: Final = 1 << 14
_SHARED: Final = 1 << 20
_DETACH: Final = 2
_DRAFT: Final = ".pyvmm:"
"""Beginning of the name of a file that is being written, before the owner and a process's number.

Nothing is mounted on such a file.
"""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file of `NAMES`. `is_mounted` where a namespace is on it; its `owner` can be seen only
    where none is, and None is somebody whom we do not know.
    """

    path: Path
    is_mounted: bool
    owner: str | None


def named_files() -> list[NamedFile]:
    """All names that there are, sorted. Raises what `own_namespace` does."""
    own = own_namespace()
    try:
        # Every namespace's file is on the one file system of theirs, nsfs.
        device = os.fstat(own).st_dev
    finally:
        os.close(own)
    found = []
    with suppress(FileNotFoundError):
        for path in sorted(NAMES.iterdir()):
            with suppress(FileNotFoundError):
                is_mounted = path.stat().st_dev == device
                found.append(NamedFile(path, is_mounted, None if is_mounted else _owner(path)))
    return found


def _owner(path: Path) -> str | None:
    if path.name.startswith(_DRAFT):
        return path.name.removeprefix(_DRAFT).partition(":")[0]
    mark = _mark_in(path)
    return mark.owner if mark else None


def _mark_in(path: Path) -> Mark | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None  # Nobody's whom we know.
    try:
        return mark_of(os.read(fd, LONGEST + 1).decode("ascii", "replace").removesuffix("\n"))
    except OSError:
        return None
    finally:
        os.close(fd)


def name_namespace(fd: int, name: str, mark: Mark) -> None:
    """Give the namespace `fd` a name, with which it stays when all descriptors are closed.

    Raises `UsageError` where the name is taken, `NoPermissionError`, `SystemCallError`.
    """
    attempt = f"name the network namespace {name}"
    path = NAMES / name
    with _told(attempt):
        _share_names()
        draft = NAMES / f"{_DRAFT}{mark.owner}:{os.getpid()}"
        with suppress(FileNotFoundError):
            draft.unlink()
        with draft.open("x", encoding="ascii") as file:
            file.write(f"{mark.alias}\n")
        try:
            os.link(draft, path)
        except FileExistsError as error:
            raise UsageError(
                attempt, "there is one of that name", f"take another, or ip netns delete {name}"
            ) from error
        finally:
            draft.unlink()
        _mount(f"/proc/self/fd/{fd}", path, _BIND)


def unname_namespace(path: Path, owner: str, *, is_mounted: bool) -> None:
    """Remove a name; the namespace that is mounted on it goes when nobody is in it any more.

    A file that is not marked as `owner`'s stays. Raises `NoPermissionError`, `SystemCallError`.
    """
    attempt = f"remove the name of the network namespace {path.name}"
    with _told(attempt):
        if is_mounted:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.umount2(os.fsencode(path), ctypes.c_int(_DETACH)):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        if _owner(path) == owner:
            path.unlink(missing_ok=True)


def _share_names() -> None:
    """Have mounts on names be seen by processes with mount namespaces of their own, as ip-netns(8).

    Its lock, too: of two that do it at once the second would do it again, on top.
    """
    NAMES.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(NAMES):
        try:
            _mount("", NAMES, _SHARED | _REC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _mount(str(NAMES), NAMES, _BIND | _REC)
            _mount("", NAMES, _SHARED | _REC)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _mount(source: str, target: Path, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (source.encode(), os.fsencode(target), b"none", ctypes.c_ulong(flags), None)
    if libc.mount(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(target))


@contextmanager
def _told(attempt: str) -> Iterator[None]:
    """Turn system calls' errors into ours."""
    try:
        yield
    except PermissionError as error:
        cause = f"it needs CAP_SYS_ADMIN and a {NAMES} to write to ({error.strerror})"
        raise NoPermissionError(attempt, cause, "do it as root") from error
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or str(error)) from error
