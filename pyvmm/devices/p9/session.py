# SPDX-License-Identifier: MIT
"""Session of a 9P2000.L server: fids, and each request's answer, over a `FileServer`.

Requests are answered one after the other, so a flush finds nothing that is still under way. A
guest's buffers are read once; a read's and a write's data are never copied: the file server
moves them between the file and the guest's memory.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any, Final

from pyvmm.devices.p9 import messages
from pyvmm.devices.p9.fids import Fid, FidState
from pyvmm.devices.p9.fields import MessageError, Qid, encode
from pyvmm.devices.p9.file_server import (
    FileServer,
    Handle,
    LockRange,
    LockType,
    NewAttributes,
    Valid,
)
from pyvmm.devices.p9.messages import (
    ERROR_SIZE,
    HEADER,
    LARGEST_MESSAGE,
    Kind,
    error_bytes,
    reply_bytes,
)
from pyvmm.devices.virtio.buffers import first, put, split

SMALLEST_MESSAGE: Final = 4096
MOST_FIDS: Final = 1 << 16
REMOVE_DIRECTORY: Final = 0x200
"""AT_REMOVEDIR."""
_BASIC_ATTRIBUTES: Final = 0x7FF
"""P9_STATS_BASIC: all that stat(2) has."""
_NANOSECONDS: Final = 10**9
_DATA_AT: Final = HEADER.size + 4
"""Place of a read's data in its reply."""
_WRITE_HEADER: Final = HEADER.size + 16
_OPEN_ONCE: Final = 0o100 | 0o200 | 0o1000
"""O_CREAT, O_EXCL and O_TRUNC: what they do is done when the file is opened, and not again."""


class Session:
    """A client's session. Not for two threads at a time."""

    def __init__(self, server: FileServer) -> None:
        self._server = server
        self._size = 0
        self._fids: dict[int, Fid] = {}
        self._answers: dict[Kind, Callable[[Any], tuple[Any, ...]]] = {
            Kind.STATFS: self._statfs,
            Kind.LOPEN: self._open,
            Kind.LCREATE: self._create,
            Kind.SYMLINK: self._symlink,
            Kind.MKNOD: self._make_node,
            Kind.READLINK: self._read_link,
            Kind.GETATTR: self._getattr,
            Kind.SETATTR: self._setattr,
            Kind.FSYNC: self._sync,
            Kind.LOCK: self._lock,
            Kind.GETLOCK: self._get_lock,
            Kind.LINK: self._link,
            Kind.MKDIR: self._make_directory,
            Kind.RENAMEAT: self._rename,
            Kind.UNLINKAT: self._unlink,
            Kind.VERSION: self._version,
            Kind.ATTACH: self._attach,
            Kind.FLUSH: self._flush,
            Kind.WALK: self._walk,
            Kind.CLUNK: self._clunk,
            Kind.REMOVE: self._remove,
        }

    def answer(self, readable: Sequence[memoryview], writable: Sequence[memoryview]) -> int:
        """Do what the message in `readable` asks for and write the reply. Return its length.

        Raises `MessageError` where there is no message, or no room even for an error.
        """
        size, number, tag = self._header(readable)
        room = sum(map(len, writable))
        if room < ERROR_SIZE:
            raise MessageError(f"{room} bytes have no room for a reply")
        try:
            return self._answer(first(readable, size), number, tag, writable, room)
        except MessageError:
            return put(writable, error_bytes(tag, errno.EINVAL))
        except OSError as error:
            return put(writable, error_bytes(tag, error.errno or errno.EIO))

    def reset(self) -> None:
        """Forget all fids."""
        while self._fids:
            self._fids.popitem()[1].close()
        self._size = 0

    def save(self) -> tuple[int, tuple[FidState, ...]]:
        """The largest message, and the fids; locks are not among it."""
        states = (fid.state(number) for number, fid in self._fids.items())
        return self._size, tuple(state for state in states if state is not None)

    def restore(self, size: int, states: Sequence[FidState]) -> None:
        """Take up what `save` gave. A file that is not there any more is stale to the guest."""
        self.reset()
        self._size = size
        for state in states:
            self._fids[state.fid] = self._found_again(state)

    def _found_again(self, state: FidState) -> Fid:
        handle = None
        try:
            handle = self._reached(self._server.root(), state.path)
            fid = Fid(handle)
            if state.flags is not None:
                fid.begin(handle, handle.open(state.flags & ~_OPEN_ONCE), state.flags)
        except OSError:
            if handle is not None:
                handle.close()
            return Fid(None)
        return fid

    def _reached(self, handle: Handle, path: Sequence[bytes]) -> Handle:
        for name in path:
            try:
                nearer = handle.walk(name)
            finally:
                handle.close()
            handle = nearer
        return handle

    def _header(self, readable: Sequence[memoryview]) -> tuple[int, int, int]:
        head, _ = split(readable, HEADER.size)
        if len(head) < HEADER.size:
            raise MessageError("it is cut within the header")
        size, number, tag = HEADER.unpack(head)
        if not HEADER.size <= size <= sum(map(len, readable)):
            raise MessageError(f"it says it has {size} bytes")
        return size, number, tag

    def _answer(
        self,
        readable: list[memoryview],
        number: int,
        tag: int,
        writable: Sequence[memoryview],
        room: int,
    ) -> int:
        whole = sum(map(len, readable)) if number != Kind.WRITE else _WRITE_HEADER
        if whole > max(self._size, SMALLEST_MESSAGE):
            raise OSError(errno.EMSGSIZE, "longer than was agreed")
        body, data = split(readable, whole)
        request, _ = messages.parse_request(number, body[HEADER.size :])
        if not self._size and number != Kind.VERSION:
            raise OSError(errno.EPROTO, "no version was agreed")
        match request:
            case messages.WritePart():
                written = self._write(request, data)
                return put(writable, reply_bytes(Kind.WRITE, tag, written))
            case messages.ReadPart():
                most = min(request.length, self._size - _DATA_AT, room - _DATA_AT)
                place = first(split(writable, _DATA_AT)[1], most)
                read = self._read if number == Kind.READ else self._read_directory
                count = read(request, place)
                kind = Kind(number)
                return put(writable, reply_bytes(kind, tag, count, data_size=count)) + count
            case messages.Other():
                raise OSError(errno.EOPNOTSUPP, "not served")
        reply = reply_bytes(Kind(number), tag, *self._answers[Kind(number)](request))
        if len(reply) > min(room, self._size):
            raise OSError(errno.EMSGSIZE, "no room for the reply")
        return put(writable, reply)

    # -- fids --

    def _fid(self, number: int) -> Fid:
        try:
            return self._fids[number]
        except KeyError:
            raise OSError(errno.EBADF, "no such fid") from None

    def _handle(self, number: int) -> Handle:
        return self._fid(number).handle

    def _set(self, number: int, handle: Handle) -> None:
        """Give `handle` a number, instead of what has it."""
        before = self._fids.pop(number, None)
        if before is not None:
            before.close()
        self._fids[number] = Fid(handle)

    def _check_free(self, number: int) -> None:
        if number in self._fids or number == messages.NO_FID:
            raise OSError(errno.EBADF, "the fid is taken")
        if len(self._fids) >= MOST_FIDS:
            raise OSError(errno.ENFILE, "too many fids")

    # -- requests, in the order of their numbers --

    def _statfs(self, request: messages.Fid) -> tuple[Any, ...]:
        return tuple(self._handle(request.fid).file_system())

    def _open(self, request: messages.Open) -> tuple[Any, ...]:
        fid = self._fid(request.fid)
        if fid.file is not None:
            raise OSError(errno.EINVAL, "it is open")
        fid.begin(fid.handle, fid.handle.open(request.flags), request.flags)
        # An I/O unit of 0: as much as a message holds.
        return fid.handle.qid, 0

    def _create(self, request: messages.Create) -> tuple[Any, ...]:
        fid = self._fid(request.fid)
        if fid.file is not None:
            raise OSError(errno.EINVAL, "it is open")
        handle, file = fid.handle.create(request.name, request.flags, request.mode)
        fid.begin(handle, file, request.flags)
        return handle.qid, 0

    def _symlink(self, request: messages.Symlink) -> tuple[Any, ...]:
        return _only_qid(self._handle(request.fid).symlink(request.name, request.target))

    def _make_node(self, request: messages.MakeNode) -> tuple[Any, ...]:
        return _only_qid(self._handle(request.fid).make_node(request.name, request.mode))

    def _read_link(self, request: messages.Fid) -> tuple[Any, ...]:
        return (self._handle(request.fid).read_link(),)

    def _getattr(self, request: messages.Getattr) -> tuple[Any, ...]:
        found = self._handle(request.fid).attributes()
        times = [
            part
            for time in (found.atime, found.mtime, found.ctime, 0)
            for part in divmod(max(time, 0), _NANOSECONDS)
        ]
        sizes = (found.links, found.device, found.size, found.block_size, found.blocks)
        owner = (found.mode, found.uid, found.gid)
        # Neither a generation nor a version of the data.
        return (_BASIC_ATTRIBUTES, found.qid, *owner, *sizes, *times, 0, 0)

    def _setattr(self, request: messages.Setattr) -> tuple[Any, ...]:
        atime = request.atime * _NANOSECONDS + request.atime_ns
        mtime = request.mtime * _NANOSECONDS + request.mtime_ns
        owner = (request.mode, request.uid, request.gid)
        wanted = NewAttributes(Valid(request.valid & 0x1FF), *owner, request.size, atime, mtime)
        self._handle(request.fid).change(wanted)
        return ()

    def _read_directory(self, request: messages.ReadPart, place: Sequence[memoryview]) -> int:
        fid = self._fid(request.fid)
        parts: list[bytes] = []
        size, room = 0, sum(map(len, place))
        position = request.offset
        while (entry := fid.entry(position)) is not None:
            position += 1
            part = encode("q81s", (entry.qid, position, entry.kind, entry.name))
            if size + len(part) > room:
                if not parts:
                    raise OSError(errno.EINVAL, "no room for an entry")
                break
            parts.append(part)
            size += len(part)
        return put(place, b"".join(parts))

    def _sync(self, request: messages.Sync) -> tuple[Any, ...]:
        self._fid(request.fid).opened.sync(data_only=bool(request.data_only))
        return ()

    def _lock(self, request: messages.Lock) -> tuple[Any, ...]:
        where = LockRange(request.start, request.length)
        return (self._fid(request.fid).opened.lock(_lock_type(request.type), where),)

    def _get_lock(self, request: messages.LockQuestion) -> tuple[Any, ...]:
        where = LockRange(request.start, request.length)
        file = self._fid(request.fid).opened
        kind, found = file.locked_by_another(_lock_type(request.type), where)
        return kind, found.start, found.length, request.process, request.client

    def _link(self, request: messages.Link) -> tuple[Any, ...]:
        self._handle(request.directory).link(self._handle(request.fid), request.name)
        return ()

    def _make_directory(self, request: messages.MakeDirectory) -> tuple[Any, ...]:
        return _only_qid(self._handle(request.fid).make_directory(request.name, request.mode))

    def _rename(self, request: messages.Rename) -> tuple[Any, ...]:
        target = self._handle(request.new_directory)
        self._handle(request.old_directory).rename(request.old_name, target, request.new_name)
        return ()

    def _unlink(self, request: messages.Unlink) -> tuple[Any, ...]:
        if request.flags & ~REMOVE_DIRECTORY:
            raise OSError(errno.EINVAL, "unknown flags")
        is_directory = bool(request.flags)
        self._handle(request.directory).unlink(request.name, is_directory=is_directory)
        return ()

    def _version(self, request: messages.Version) -> tuple[Any, ...]:
        self.reset()
        size = min(request.size, LARGEST_MESSAGE)
        if size < SMALLEST_MESSAGE:
            raise OSError(errno.EMSGSIZE, "messages are too small")
        self._size = size
        if request.version == messages.VERSION:
            return size, messages.VERSION
        return size, b"unknown"

    def _attach(self, request: messages.Attach) -> tuple[Any, ...]:
        self._check_free(request.fid)
        handle = self._server.root()
        self._set(request.fid, handle)
        return (handle.qid,)

    def _flush(self, _: messages.Flush) -> tuple[Any, ...]:
        return ()

    def _walk(self, request: messages.Walk) -> tuple[Any, ...]:
        if request.new_fid != request.fid:
            self._check_free(request.new_fid)
        if len(request.names) > messages.MOST_NAMES:
            raise OSError(errno.EINVAL, "too many names")
        handle = self._handle(request.fid).clone()
        qids: list[Qid] = []
        for name in request.names:
            try:
                nearer = handle.walk(name)
            except OSError:
                handle.close()
                # So far it was reached; the new fid is not made then. The first name must be there.
                if not qids:
                    raise
                return (tuple(qids),)
            handle.close()
            handle = nearer
            qids.append(handle.qid)
        self._set(request.new_fid, handle)
        return (tuple(qids),)

    def _read(self, request: messages.ReadPart, place: Sequence[memoryview]) -> int:
        return self._fid(request.fid).opened.read(place, request.offset)

    def _write(self, request: messages.WritePart, data: Sequence[memoryview]) -> int:
        if request.length != sum(map(len, data)):
            raise MessageError(f"it has not the {request.length} bytes that it says")
        return self._fid(request.fid).opened.write(data, request.offset)

    def _clunk(self, request: messages.Fid) -> tuple[Any, ...]:
        self._fid(request.fid)
        self._fids.pop(request.fid).close()
        return ()

    def _remove(self, request: messages.Fid) -> tuple[Any, ...]:
        # The fid goes even though the file stays: Linux has asked for an unlink by name before.
        self._clunk(request)
        raise OSError(errno.EOPNOTSUPP, "not served")


def _only_qid(handle: Handle) -> tuple[Qid]:
    handle.close()
    return (handle.qid,)


def _lock_type(number: int) -> LockType:
    if number not in LockType.__members__.values():
        raise OSError(errno.EINVAL, "no kind of lock")
    return LockType(number)
