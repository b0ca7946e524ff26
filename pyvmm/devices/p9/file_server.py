# SPDX-License-Identifier: MIT
"""The operating system's side of a shared folder, as the session of 9P2000.L asks for it.

Whatever fails raises `OSError` with the errno that the guest is to see. Names are bytes, and one
component each; whoever implements this refuses others.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from pyvmm.devices.p9.fields import Qid


class Valid(enum.IntFlag):
    """Attributes that a Tsetattr changes (P9_SETATTR_* in Linux's ``include/net/9p/9p.h``)."""

    MODE = 0x001
    UID = 0x002
    GID = 0x004
    SIZE = 0x008
    ATIME = 0x010
    MTIME = 0x020
    CTIME = 0x040
    ATIME_SET = 0x080
    """To the time that is given; without it to now."""
    MTIME_SET = 0x100


class LockType(enum.IntEnum):
    """Kind of lock of a range of a file, or that there is none."""

    READ = 0
    WRITE = 1
    NONE = 2


class LockStatus(enum.IntEnum):
    """Answer to Tlock."""

    DONE = 0
    BLOCKED = 1
    ERROR = 2


class Attributes(NamedTuple):
    """Attributes of a file; times are in ns since 1970, `size` in bytes, `blocks` of 512."""

    qid: Qid
    mode: int
    uid: int
    gid: int
    links: int
    device: int
    size: int
    block_size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int


class NewAttributes(NamedTuple):
    """Attributes to be set, those of `valid`; times are in ns."""

    valid: Valid
    mode: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int


class FileSystem(NamedTuple):
    """Answer to Tstatfs, as statfs(2); sizes are in blocks."""

    kind: int
    block_size: int
    blocks: int
    free: int
    available: int
    files: int
    free_files: int
    identity: int
    longest_name: int


class Entry(NamedTuple):
    """Entry of a directory; `kind` is a DT_* of readdir(3), 0 where it is not known."""

    qid: Qid
    kind: int
    name: bytes


class LockRange(NamedTuple):
    """Range of a file in bytes; a length of 0 reaches to its end, wherever that is."""

    start: int
    length: int


class OpenFile(Protocol):
    """A file or a directory that is open for what its flags said."""

    def read(self, views: Sequence[memoryview], offset: int) -> int:
        """Read into `views` as far as there is something. Return the bytes."""

    def write(self, views: Sequence[memoryview], offset: int) -> int:
        """Write `views`. Return the bytes written."""

    def entries(self) -> Iterator[Entry]:
        """A directory's entries from its beginning, each time; ``.`` and ``..`` among them."""

    def sync(self, *, data_only: bool) -> None:
        """Have the host's disk keep what was written."""

    def lock(self, kind: LockType, where: LockRange) -> LockStatus:
        """Lock or unlock a range, without waiting."""

    def locked_by_another(self, kind: LockType, where: LockRange) -> tuple[LockType, LockRange]:
        """Lock that keeps `kind` from being taken; NONE and `where` if there is none."""

    def close(self) -> None:
        """Let go of it."""


class Handle(Protocol):
    """A file, or whatever has a name in a folder, that is held and not open."""

    qid: Qid

    def clone(self) -> Handle:
        """Another handle of the same."""

    def walk(self, name: bytes) -> Handle:
        """The entry `name` of this directory; ``..`` of the root is the root."""

    def path(self) -> tuple[bytes, ...] | None:
        """Names from the root by which it can be reached again; None of what was removed."""

    def attributes(self) -> Attributes:
        """Its attributes now."""

    def change(self, wanted: NewAttributes) -> None:
        """Set attributes."""

    def open(self, flags: int) -> OpenFile:
        """Open a regular file or a directory; everything else is refused."""

    def create(self, name: bytes, flags: int, mode: int) -> tuple[Handle, OpenFile]:
        """Make and open the regular file `name` in this directory."""

    def make_directory(self, name: bytes, mode: int) -> Handle:
        """Make the directory `name`."""

    def make_node(self, name: bytes, mode: int) -> Handle:
        """Make a FIFO, a socket's name or a file."""

    def symlink(self, name: bytes, target: bytes) -> Handle:
        """Make the symbolic link `name`."""

    def link(self, file: Handle, name: bytes) -> None:
        """Make `name` another name of `file`."""

    def rename(self, name: bytes, directory: Handle, new_name: bytes) -> None:
        """Rename this directory's entry `name` to `directory`'s `new_name`."""

    def unlink(self, name: bytes, *, is_directory: bool) -> None:
        """Remove the entry `name`."""

    def read_link(self) -> bytes:
        """A symbolic link's text."""

    def file_system(self) -> FileSystem:
        """The file system that it is on."""

    def close(self) -> None:
        """Let go of it."""


class FileServer(Protocol):
    """A folder that is shared."""

    def root(self) -> Handle:
        """A handle of the folder itself."""
