# SPDX-License-Identifier: MIT
"""A client of 9P2000.L: requests to a session and its replies, cut into buffers at any place."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from pyvmm.devices.p9 import messages
from pyvmm.devices.p9.fields import Qid, decode
from pyvmm.devices.p9.messages import HEADER, NO_FID, Kind
from pyvmm.devices.p9.session import Session

ROOT = 0
ROOM = 64 << 10


def cut(data: bytearray, places: Sequence[int]) -> list[memoryview]:
    """Views of `data`, cut at `places`."""
    ends = [0, *sorted(place for place in places if place < len(data)), len(data)]
    view = memoryview(data)
    return [view[start:end] for start, end in pairwise(ends) if start < end]


class Client:
    """Calls of a client, as Linux makes them. What fails raises `OSError`."""

    def __init__(self, session: Session, cuts: Sequence[int] = (7, 23, 30)) -> None:
        self.session = session
        self.cuts = cuts
        self.tag = 0
        self.numbers = iter(range(1, 1 << 30))

    def exchange(self, message: bytes, room: int = ROOM) -> bytes:
        """The reply's bytes to a message's."""
        reply = bytearray(room)
        written = self.session.answer(cut(bytearray(message), self.cuts), cut(reply, self.cuts))
        return bytes(reply[:written])

    def call(
        self, kind: Kind, request: messages.Request, data: bytes = b"", room: int = ROOM
    ) -> tuple[Any, ...]:
        """Fields of the reply."""
        self.tag = (self.tag + 1) % 0xFFFF
        message = messages.request_bytes(kind, self.tag, request, data)
        reply = self.exchange(message, room)
        assert HEADER.unpack_from(reply)[2] == self.tag
        values = messages.parse_reply(kind, reply)
        if isinstance(values, int):
            raise OSError(values, os.strerror(values))
        return values

    def begin(self, size: int = ROOM) -> Client:
        """Agree on the version, and attach."""
        values = self.call(Kind.VERSION, messages.Version(size, messages.VERSION))
        assert values == (size, messages.VERSION, b"")
        self.call(Kind.ATTACH, messages.Attach(ROOT, NO_FID, b"root", b"", 0))
        return self

    def walk(self, *names: bytes, fid: int = ROOT) -> int:
        """A new fid."""
        new = next(self.numbers)
        qids, _ = self.call(Kind.WALK, messages.Walk(fid, new, names))
        if len(qids) != len(names):
            raise FileNotFoundError(2, "partial walk")
        return new

    def open(self, *names: bytes, flags: int = os.O_RDONLY) -> int:
        """A new fid that is open."""
        fid = self.walk(*names)
        try:
            self.call(Kind.LOPEN, messages.Open(fid, flags))
        except OSError:
            self.clunk(fid)
            raise
        return fid

    def create(self, *names: bytes, flags: int = os.O_RDWR, mode: int = 0o644) -> int:
        """A new fid of a new file."""
        fid = self.walk(*names[:-1])
        try:
            self.call(Kind.LCREATE, messages.Create(fid, names[-1], flags, mode, 0))
        except OSError:
            self.clunk(fid)
            raise
        return fid

    def clunk(self, fid: int) -> None:
        self.call(Kind.CLUNK, messages.Fid(fid))

    def read(self, fid: int, size: int = 4096, offset: int = 0) -> bytes:
        count, data = self.call(Kind.READ, messages.ReadPart(fid, offset, size))
        assert count == len(data)
        return bytes(data)

    def write(self, fid: int, data: bytes, offset: int = 0) -> int:
        count, _ = self.call(Kind.WRITE, messages.WritePart(fid, offset, len(data)), data)
        return int(count)

    def contents(self, *names: bytes) -> bytes:
        """All of a file, of some KiB."""
        fid = self.open(*names)
        try:
            return self.read(fid)
        finally:
            self.clunk(fid)

    def entries(self, fid: int, size: int = 4096) -> list[tuple[Qid, int, bytes]]:
        """All of an open directory, `size` bytes at a time."""
        found: list[tuple[Qid, int, bytes]] = []
        offset = 0
        while True:
            _, data = self.call(Kind.READDIR, messages.ReadPart(fid, offset, size))
            if not data:
                return found
            while data:
                (qid, offset, kind, name), taken = decode("q81s", data)
                found.append((qid, kind, name))
                data = data[taken:]

    def names(self, *names: bytes, size: int = 4096) -> list[bytes]:
        """Names in a directory, sorted, without those of itself and above."""
        fid = self.open(*names)
        try:
            found = [name for _, _, name in self.entries(fid, size)]
        finally:
            self.clunk(fid)
        assert sorted(found)[:2] == [b".", b".."]
        return sorted(set(found) - {b".", b".."})

    def mode(self, *names: bytes) -> int:
        fid = self.walk(*names)
        values = self.call(Kind.GETATTR, messages.Getattr(fid, 0x7FF))
        self.clunk(fid)
        return int(values[2])

    def is_directory(self, *names: bytes) -> bool:
        return stat.S_ISDIR(self.mode(*names))

    def symlink(self, *names: bytes, target: bytes) -> None:
        fid = self.walk(*names[:-1])
        try:
            self.call(Kind.SYMLINK, messages.Symlink(fid, names[-1], target, 0))
        finally:
            self.clunk(fid)

    def read_link(self, *names: bytes) -> bytes:
        fid = self.walk(*names)
        try:
            return bytes(self.call(Kind.READLINK, messages.Fid(fid))[0])
        finally:
            self.clunk(fid)

    def make_directory(self, *names: bytes, mode: int = 0o755) -> None:
        fid = self.walk(*names[:-1])
        try:
            self.call(Kind.MKDIR, messages.MakeDirectory(fid, names[-1], mode, 0))
        finally:
            self.clunk(fid)

    def unlink(self, *names: bytes, directory: bool = False) -> None:
        fid = self.walk(*names[:-1])
        flags = 0x200 if directory else 0
        try:
            self.call(Kind.UNLINKAT, messages.Unlink(fid, names[-1], flags))
        finally:
            self.clunk(fid)

    def rename(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        source = self.walk(*old[:-1])
        try:
            target = self.walk(*new[:-1])
            try:
                self.call(Kind.RENAMEAT, messages.Rename(source, old[-1], target, new[-1]))
            finally:
                self.clunk(target)
        finally:
            self.clunk(source)

    def change(self, fid: int, valid: int, **values: int) -> None:
        names = messages.Setattr._fields[2:]
        fields = [values.get(name, 0) for name in names]
        self.call(Kind.SETATTR, messages.Setattr(fid, valid, *fields))
