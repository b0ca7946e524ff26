# SPDX-License-Identifier: MIT
"""A client of a shared folder: messages one behind the other, as their sizes say."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pyvmm.devices.p9 import messages
from pyvmm.devices.p9.fields import MessageError, encode
from pyvmm.devices.p9.messages import HEADER, Kind
from pyvmm.devices.p9.session import Session
from pyvmm.machine.share.folder import open_folder
from pyvmm.machine.share.handles import HostFolder

from .target import Target

_ROOM = 8192


def one(data: bytes) -> None:
    """Whatever a client says, it is answered, and what is beside the folder stays as it is."""
    with tempfile.TemporaryDirectory() as name:
        shared, outside = Path(name, "shared"), Path(name, "outside")
        for folder in (shared, shared / "a", outside):
            folder.mkdir()
        (shared / "a" / "b").write_bytes(b"inside")
        (outside / "c").write_bytes(b"outside")
        (shared / "link").symlink_to("../outside")
        before = len(os.listdir("/proc/self/fd"))
        root = open_folder(shared, read_only=False, descriptors=16)
        session = Session(HostFolder(root))
        for message in _messages(data):
            _exchange(session, message)
        session.restore(*session.save())
        session.reset()
        root.close()
        assert len(os.listdir("/proc/self/fd")) == before
        assert (outside / "c").read_bytes() == b"outside"
        assert sorted(path.name for path in Path(name).iterdir()) == ["outside", "shared"]
        assert [path.name for path in outside.iterdir()] == ["c"]


def _messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = max(int.from_bytes(data[:4], "little"), 1)
        found.append(data[:size])
        data = data[size:]
    return found


def _exchange(session: Session, message: bytes) -> None:
    reply = bytearray(_ROOM)
    view = memoryview(message)
    try:
        size = session.answer(
            [view[:9], view[9:]], [memoryview(reply)[:11], memoryview(reply)[11:]]
        )
    except MessageError:
        return
    assert HEADER.unpack_from(reply)[0] == size <= _ROOM
    assert b"outside" not in reply[:size] or message[4] == Kind.READLINK
    parsed, _ = _parsed(message)
    if parsed is not None and not isinstance(parsed, messages.Other):
        assert message[HEADER.size :].startswith(
            encode(messages.LAYOUTS[Kind(message[4])][1], parsed)
        )


def _parsed(message: bytes) -> tuple[messages.Request | None, int]:
    try:
        return messages.parse_request(message[4], message[HEADER.size :])
    except MessageError:
        return None, 0


def _seed(*requests: tuple[Kind, messages.Request]) -> bytes:
    begin: tuple[tuple[Kind, messages.Request], ...] = (
        (Kind.VERSION, messages.Version(8192, messages.VERSION)),
        (Kind.ATTACH, messages.Attach(0, messages.NO_FID, b"root", b"", 0)),
    )
    return b"".join(
        messages.request_bytes(kind, 1, request) for kind, request in (*begin, *requests)
    )


TARGET = Target(
    one,
    [
        _seed(
            (Kind.WALK, messages.Walk(0, 1, (b"a", b"b"))),
            (Kind.LOPEN, messages.Open(1, os.O_RDWR)),
            (Kind.READ, messages.ReadPart(1, 0, 100)),
            (Kind.LOCK, messages.Lock(1, 1, 0, 0, 0, 1, b"")),
            (Kind.GETATTR, messages.Getattr(1, 0x7FF)),
            (Kind.CLUNK, messages.Fid(1)),
        ),
        _seed(
            (Kind.WALK, messages.Walk(0, 1, ())),
            (Kind.LCREATE, messages.Create(1, b"new", os.O_RDWR, 0o644, 0)),
            (Kind.MKDIR, messages.MakeDirectory(0, b"d", 0o755, 0)),
            (Kind.RENAMEAT, messages.Rename(0, b"a", 0, b"z")),
            (Kind.SETATTR, messages.Setattr(1, 9, 0o600, 0, 0, 5, 0, 0, 0, 0)),
            (Kind.UNLINKAT, messages.Unlink(0, b"d", 0x200)),
        ),
        _seed(
            (Kind.WALK, messages.Walk(0, 1, (b"link",))),
            (Kind.READLINK, messages.Fid(1)),
            (Kind.WALK, messages.Walk(0, 2, (b"..", b"a"))),
            (Kind.LOPEN, messages.Open(2, 0)),
            (Kind.READDIR, messages.ReadPart(2, 0, 1000)),
            (Kind.SYMLINK, messages.Symlink(0, b"out", b"../outside", 0)),
        ),
    ],
    most=2048,
)
