# SPDX-License-Identifier: MIT
"""Messages of 9P2000.L as bytes and back.

A message is a size (u32, itself included), a kind (u8), a tag (u16) and what its kind has; numbers
are little-endian. Sources: Linux's ``include/net/9p/9p.h`` and ``net/9p/client.c``; diod's
``protocol.md``. Both directions are here, so that one side's bytes are the other side's input.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from pyvmm.devices.p9.fields import MessageError, decode, encode

HEADER: Final = struct.Struct("<IBH")
VERSION: Final = b"9P2000.L"
LARGEST_MESSAGE: Final = 1 << 20
"""Bytes of the largest message that is agreed on."""
NO_FID: Final = 0xFFFFFFFF
MOST_NAMES: Final = 16
"""Names in one walk (MAXWELEM)."""


class Kind(enum.IntEnum):
    """Requests; a reply's number is one more."""

    STATFS = 8
    LOPEN = 12
    LCREATE = 14
    SYMLINK = 16
    MKNOD = 18
    RENAME = 20
    READLINK = 22
    GETATTR = 24
    SETATTR = 26
    XATTRWALK = 30
    XATTRCREATE = 32
    READDIR = 40
    FSYNC = 50
    LOCK = 52
    GETLOCK = 54
    LINK = 70
    MKDIR = 72
    RENAMEAT = 74
    UNLINKAT = 76
    VERSION = 100
    AUTH = 102
    ATTACH = 104
    FLUSH = 108
    WALK = 110
    READ = 116
    WRITE = 118
    CLUNK = 120
    REMOVE = 122


RLERROR: Final = 7
"""The reply to whatever failed: an errno."""


class Version(NamedTuple):
    """Tversion and Rversion: the largest message in bytes, and the protocol's name."""

    size: int
    version: bytes


class Attach(NamedTuple):
    """Tattach: `fid` becomes the root."""

    fid: int
    auth_fid: int
    user: bytes
    tree: bytes
    uid: int


class Walk(NamedTuple):
    """Twalk: `new_fid` becomes what is reached from `fid` by `names`."""

    fid: int
    new_fid: int
    names: tuple[bytes, ...]


class Fid(NamedTuple):
    """Tclunk, Tremove, Treadlink, Tstatfs: a fid and no more."""

    fid: int


class Flush(NamedTuple):
    """Tflush: the request `old_tag` is not waited for any more."""

    old_tag: int


class Open(NamedTuple):
    """Tlopen: `flags` as open(2) has them on x86."""

    fid: int
    flags: int


class Create(NamedTuple):
    """Tlcreate: make `name` in the directory `fid`, which becomes the new file, open."""

    fid: int
    name: bytes
    flags: int
    mode: int
    gid: int


class Symlink(NamedTuple):
    """Tsymlink: `name` in the directory `fid`, with the text `target`."""

    fid: int
    name: bytes
    target: bytes
    gid: int


class MakeNode(NamedTuple):
    """Tmknod: `mode` has the file's type, too."""

    fid: int
    name: bytes
    mode: int
    major: int
    minor: int
    gid: int


class MakeDirectory(NamedTuple):
    """Tmkdir."""

    fid: int
    name: bytes
    mode: int
    gid: int


class Getattr(NamedTuple):
    """Tgetattr: `mask` says which attributes are wanted; more may be given."""

    fid: int
    mask: int


class Setattr(NamedTuple):
    """Tsetattr: `valid` says which of the values count (`pyvmm.devices.p9.file_server.Valid`)."""

    fid: int
    valid: int
    mode: int
    uid: int
    gid: int
    size: int
    atime: int
    atime_ns: int
    mtime: int
    mtime_ns: int


class ReadPart(NamedTuple):
    """Tread and Treaddir: at most `length` bytes from `offset` on."""

    fid: int
    offset: int
    length: int


class WritePart(NamedTuple):
    """Twrite: `length` bytes, which follow this, are to be at `offset`."""

    fid: int
    offset: int
    length: int


class Sync(NamedTuple):
    """Tfsync: `data_only` as fdatasync(2)."""

    fid: int
    data_only: int


class Lock(NamedTuple):
    """Tlock: `type` is 0 for reading, 1 for writing, 2 to unlock; `length` 0 is to the end."""

    fid: int
    type: int
    flags: int
    start: int
    length: int
    process: int
    client: bytes


class LockQuestion(NamedTuple):
    """Tgetlock, and Rgetlock without the fid."""

    fid: int
    type: int
    start: int
    length: int
    process: int
    client: bytes


class Link(NamedTuple):
    """Tlink: `name` in `directory` becomes another name of `fid`."""

    directory: int
    fid: int
    name: bytes


class Rename(NamedTuple):
    """Trenameat."""

    old_directory: int
    old_name: bytes
    new_directory: int
    new_name: bytes


class Unlink(NamedTuple):
    """Tunlinkat: `flags` as unlinkat(2)."""

    directory: int
    name: bytes
    flags: int


class Other(NamedTuple):
    """A request of a kind that is not served here, whatever it says."""


Request: TypeAlias = (
    Version | Attach | Walk | Fid | Flush | Open | Create | Symlink | MakeNode | MakeDirectory
    | Getattr | Setattr | ReadPart | WritePart | Sync | Lock | LockQuestion | Link | Rename
    | Unlink | Other
)  # fmt: skip

LAYOUTS: Final[Mapping[Kind, tuple[type[Any], str]]] = {
    Kind.STATFS: (Fid, "4"),
    Kind.LOPEN: (Open, "44"),
    Kind.LCREATE: (Create, "4s444"),
    Kind.SYMLINK: (Symlink, "4ss4"),
    Kind.MKNOD: (MakeNode, "4s4444"),
    Kind.READLINK: (Fid, "4"),
    Kind.GETATTR: (Getattr, "48"),
    Kind.SETATTR: (Setattr, "4444488888"),
    Kind.READDIR: (ReadPart, "484"),
    Kind.FSYNC: (Sync, "44"),
    Kind.LOCK: (Lock, "414884s"),
    Kind.GETLOCK: (LockQuestion, "41884s"),
    Kind.LINK: (Link, "44s"),
    Kind.MKDIR: (MakeDirectory, "4s44"),
    Kind.RENAMEAT: (Rename, "4s4s"),
    Kind.UNLINKAT: (Unlink, "4s4"),
    Kind.VERSION: (Version, "4s"),
    Kind.ATTACH: (Attach, "44ss4"),
    Kind.FLUSH: (Flush, "2"),
    Kind.WALK: (Walk, "44n"),
    Kind.READ: (ReadPart, "484"),
    Kind.WRITE: (WritePart, "484"),
    Kind.CLUNK: (Fid, "4"),
    Kind.REMOVE: (Fid, "4"),
}
"""Requests by kind: the class, and its fields (`pyvmm.devices.p9.fields`)."""
REPLIES: Final[Mapping[Kind, str]] = {
    Kind.STATFS: "448888884",
    Kind.LOPEN: "q4",
    Kind.LCREATE: "q4",
    Kind.SYMLINK: "q",
    Kind.MKNOD: "q",
    Kind.READLINK: "s",
    Kind.GETATTR: "8q444" + "8" * 15,
    Kind.SETATTR: "",
    Kind.READDIR: "4",
    Kind.FSYNC: "",
    Kind.LOCK: "1",
    Kind.GETLOCK: "1884s",
    Kind.LINK: "",
    Kind.MKDIR: "q",
    Kind.RENAMEAT: "",
    Kind.UNLINKAT: "",
    Kind.VERSION: "4s",
    Kind.ATTACH: "q",
    Kind.FLUSH: "",
    Kind.WALK: "w",
    Kind.READ: "4",
    Kind.WRITE: "4",
    Kind.CLUNK: "",
    Kind.REMOVE: "",
}
"""Fields of replies. The data of a read follow their length."""


def parse_request(number: int, body: bytes) -> tuple[Request, int]:
    """Request of kind `number`, and the bytes that it has taken; `Other` for what is not served.

    `body` is the message behind its header. Raises `MessageError` for what is cut, or goes on
    behind its end; a write's data are none of that.
    """
    if number not in Kind.__members__.values() or Kind(number) not in LAYOUTS:
        return Other(), len(body)
    make, layout = LAYOUTS[Kind(number)]
    values, taken = decode(layout, body)
    if taken != len(body) and number != Kind.WRITE:
        raise MessageError("it goes on behind its end")
    request: Request = make(*values)
    return request, taken


def request_bytes(kind: Kind, tag: int, request: Request, data: bytes = b"") -> bytes:
    """A whole request, as a client sends it; `data` of a write."""
    body = encode(LAYOUTS[kind][1], request) + data
    return HEADER.pack(HEADER.size + len(body), kind, tag) + body


def reply_bytes(kind: Kind, tag: int, *values: Any, data_size: int = 0) -> bytes:
    """A reply as far as its fields go; `data_size` more bytes are said to follow."""
    body = encode(REPLIES[kind], values)
    return HEADER.pack(HEADER.size + len(body) + data_size, kind + 1, tag) + body


def error_bytes(tag: int, number: int) -> bytes:
    """Rlerror: `number` is an errno as x86 has them."""
    return HEADER.pack(HEADER.size + 4, RLERROR, tag) + encode("4", (number,))


ERROR_SIZE: Final = HEADER.size + 4
"""Length of Rlerror in bytes."""


def parse_reply(kind: Kind, message: bytes) -> tuple[Any, ...] | int:
    """Fields of the reply to a request of that kind, or an errno; what data follow are the last.

    Raises `MessageError`.
    """
    if len(message) < HEADER.size:
        raise MessageError("it is cut within the header")
    size, number, _ = HEADER.unpack_from(message)
    if size != len(message):
        raise MessageError(f"it says {size} bytes and has {len(message)}")
    body = message[HEADER.size :]
    if number == RLERROR:
        (errno,), _ = decode("4", body)
        return int(errno)
    if number != kind + 1:
        raise MessageError(f"{number} is not the reply to {kind.name}")
    values, taken = decode(REPLIES[kind], body)
    return (*values, body[taken:])
