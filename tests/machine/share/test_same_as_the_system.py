# SPDX-License-Identifier: MIT
"""A shared folder beside one that the same is done to by paths: the same happens to both."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.p9 import messages
from pyvmm.devices.p9.fields import MessageError
from pyvmm.devices.p9.messages import HEADER, Kind
from tests.devices.p9.client import ROOT, Client
from tests.machine.share.in_folders import client_of, refusal

PATHS = st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3).map(tuple)
DATA = st.binary(max_size=40)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), PATHS, DATA),
        st.tuples(st.just("write"), PATHS, DATA),
        st.tuples(st.just("read"), PATHS),
        st.tuples(st.just("make_directory"), PATHS),
        st.tuples(st.just("symlink"), PATHS),
        st.tuples(st.just("unlink"), PATHS, st.booleans()),
        st.tuples(st.just("rename"), PATHS, PATHS),
        st.tuples(st.just("names"), PATHS),
        st.tuples(st.just("hold"), PATHS),
        st.tuples(st.just("link"), PATHS, PATHS),
    ),
    min_size=8,
    max_size=30,
)
ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO}
"""A path is followed by the client, name by name: what ends it has another errno then."""


class Twin:
    """The same calls, by paths."""

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root)

    def at(self, names: tuple[bytes, ...]) -> bytes:
        return b"/".join((self.root, *names))

    def create(self, names: tuple[bytes, ...], data: bytes) -> None:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
        descriptor = os.open(self.at(names), flags, 0o644)
        os.pwrite(descriptor, data, 0)
        os.close(descriptor)

    def write(self, names: tuple[bytes, ...], data: bytes) -> None:
        descriptor = os.open(self.at(names), os.O_WRONLY | os.O_NOFOLLOW | os.O_TRUNC)
        os.pwrite(descriptor, data, 3)
        os.close(descriptor)

    def read(self, names: tuple[bytes, ...]) -> bytes:
        descriptor = os.open(self.at(names), os.O_RDONLY | os.O_NOFOLLOW)
        try:
            return os.read(descriptor, 4096)
        finally:
            os.close(descriptor)

    def make_directory(self, names: tuple[bytes, ...]) -> None:
        os.mkdir(self.at(names), 0o755)

    def symlink(self, names: tuple[bytes, ...]) -> None:
        os.symlink(b"/nowhere", self.at(names))

    def unlink(self, names: tuple[bytes, ...], directory: bool) -> None:
        (os.rmdir if directory else os.unlink)(self.at(names))

    def rename(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        os.rename(self.at(old), self.at(new))

    def link(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def names(self, names: tuple[bytes, ...]) -> list[bytes]:
        if os.path.islink(self.at(names)):
            raise NotADirectoryError(errno.ENOTDIR, "link")
        return sorted(os.listdir(self.at(names)))

    def hold(self, names: tuple[bytes, ...]) -> int:
        return os.open(self.at(names), os.O_PATH | os.O_NOFOLLOW)


class Shared:
    """The calls by 9P."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.make_directory: Callable[..., Any] = lambda names: client.make_directory(*names)
        self.symlink: Callable[..., Any] = lambda names: client.symlink(*names, target=b"/nowhere")
        self.read: Callable[..., Any] = lambda names: client.contents(*names)
        self.names: Callable[..., Any] = lambda names: client.names(*names)
        self.rename: Callable[..., Any] = client.rename
        self.hold: Callable[..., Any] = lambda names: client.walk(*names)

    def create(self, names: tuple[bytes, ...], data: bytes) -> None:
        fid = self.client.create(*names, flags=os.O_WRONLY | os.O_EXCL)
        self.client.write(fid, data)
        self.client.clunk(fid)

    def write(self, names: tuple[bytes, ...], data: bytes) -> None:
        fid = self.client.open(*names, flags=os.O_WRONLY | os.O_TRUNC)
        self.client.write(fid, data, 3)
        self.client.clunk(fid)

    def unlink(self, names: tuple[bytes, ...], directory: bool) -> None:
        self.client.unlink(*names, directory=directory)

    def link(self, old: tuple[bytes, ...], new: tuple[bytes, ...]) -> None:
        fid = self.client.walk(*old)
        directory = self.client.walk(*new[:-1])
        self.client.call(Kind.LINK, messages.Link(directory, fid, new[-1]))


def outcome(side: Twin | Shared, step: tuple[Any, ...]) -> Any:
    try:
        return getattr(side, step[0])(*step[1:])
    except OSError as error:
        return "absent" if error.errno in ABSENT else errno.errorcode[error.errno or 0]


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    found = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        found[str(path.relative_to(root))] = (
            mode,
            path.read_bytes() if stat.S_ISREG(mode) else b"",
        )
    return found


@given(steps=STEPS)
def test_a_shared_folder_becomes_what_the_system_makes_of_it(
    steps: list[tuple[Any, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        shared, other = Path(name, "shared"), Path(name, "other")
        shared.mkdir()
        other.mkdir()
        with client_of(shared, descriptors=16) as client:
            held: list[tuple[int, int]] = []
            sides = Shared(client), Twin(other)
            for step in steps:
                ours, theirs = (outcome(side, step) for side in sides)
                if step[0] == "hold" and isinstance(theirs, int):
                    held.append((ours, theirs))
                else:
                    assert ours == theirs, step
                assert tree(shared) == tree(other), step
            for ours, theirs in held:
                found = client.call(Kind.GETATTR, messages.Getattr(ours, 0x7FF))
                state = os.fstat(theirs)
                assert (found[2], found[5], found[7]) == (
                    state.st_mode,
                    state.st_nlink,
                    state.st_size,
                )
                os.close(theirs)


NUMBERS = st.sampled_from([0, 1, 2, 3, 4, 7, 11, 4096, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
NAMES = st.sampled_from([b"a", b"b", b"..", b".", b"", b"a/b", b"..\0", b"/", b"link", b"x" * 300])
WILD: dict[str, st.SearchStrategy[Any]] = {
    "1": NUMBERS.map(lambda number: number & 0xFF),
    "2": NUMBERS.map(lambda number: number & 0xFFFF),
    "4": NUMBERS.map(lambda number: number & 0xFFFF_FFFF),
    "8": NUMBERS,
    "s": NAMES,
    "n": st.lists(NAMES, max_size=3).map(tuple),
}


@st.composite
def wild_messages(draw: st.DrawFn) -> bytes:
    """Messages that are right as far as their layout goes, and then perhaps cut or changed."""
    kind = draw(st.sampled_from(sorted(messages.LAYOUTS)))
    make, layout = messages.LAYOUTS[kind]
    values = [draw(WILD[letter]) for letter in layout]
    if kind is Kind.VERSION:
        values = [draw(st.sampled_from([4096, 70000])), messages.VERSION]
    data = draw(st.binary(max_size=8)) if kind is Kind.WRITE else b""
    message = bytearray(messages.request_bytes(kind, 1, make(*values), data))
    if draw(st.integers(0, 9)) == 0:
        place = draw(st.integers(0, len(message) - 1))
        message[place] = draw(st.integers(0, 255))
    return bytes(message)


@given(
    sent=st.lists(wild_messages(), min_size=5, max_size=40), room=st.sampled_from([11, 100, 9999])
)
def test_a_wild_client_gets_answers_and_no_further_than_the_folder(
    sent: list[bytes], room: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        shared, outside = Path(name, "shared"), Path(name, "outside")
        shared.mkdir()
        outside.mkdir()
        (outside / "a").write_text("outside")
        (shared / "a").mkdir()
        (shared / "a" / "b").write_text("inside")
        (shared / "link").symlink_to(outside)
        (outside / "back").symlink_to(shared)
        before = tree(outside), outside.stat().st_mtime_ns
        with client_of(shared, descriptors=16) as client:
            for message in sent:
                try:
                    reply = client.exchange(message, room)
                except MessageError:
                    continue
                size, number, _ = HEADER.unpack_from(reply)
                assert size == len(reply) <= room
                assert number in (messages.RLERROR, message[4] + 1)
                assert b"outside" not in reply or message[4] == Kind.READLINK
            client.begin()
            assert client.is_directory()
        assert (tree(outside), outside.stat().st_mtime_ns) == before
        assert sorted(path.name for path in Path(name).iterdir()) == ["outside", "shared"]


def test_the_root_of_a_wild_client_stays(tmp_path: Path) -> None:
    with client_of(tmp_path) as client:
        for kind, request in (
            (Kind.UNLINKAT, messages.Unlink(ROOT, b"..", 0x200)),
            (Kind.RENAMEAT, messages.Rename(ROOT, b"..", ROOT, b"x")),
            (Kind.UNLINKAT, messages.Unlink(ROOT, b"x", 0xFFFF)),
        ):
            with refusal(errno.EINVAL):
                client.call(kind, request)
