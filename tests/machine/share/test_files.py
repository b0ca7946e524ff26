# SPDX-License-Identifier: MIT
"""A shared folder over 9P: what a client does is done to the host's files, and to no others."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.devices.p9 import messages
from pyvmm.devices.p9.fields import MessageError
from pyvmm.devices.p9.file_server import LockType
from pyvmm.devices.p9.messages import Kind
from pyvmm.devices.p9.session import Session
from pyvmm.errors import NoInputError, NoPermissionError
from pyvmm.machine.share import folder as folder_module
from pyvmm.machine.share.folder import open_folder
from pyvmm.machine.share.handles import HostFolder
from pyvmm.machine.share.open_files import MOST_LOCKS
from tests.devices.p9.client import ROOT, Client, cut
from tests.machine.share.in_folders import client_of, open_descriptors, refusal


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    return secret


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "a").mkdir()
    (folder / "a" / "file").write_bytes(b"contents")
    return folder


@pytest.fixture
def client(folder: Path) -> Iterator[Client]:
    with client_of(folder) as client:
        yield client


def test_a_file_is_read_and_written(client: Client, folder: Path) -> None:
    assert client.contents(b"a", b"file") == b"contents"
    fid = client.open(b"a", b"file", flags=os.O_RDWR)
    assert client.write(fid, b"XY", 3) == 2
    assert client.read(fid, 5, 1) == b"onXYn"
    assert client.read(fid, 5, 100) == b""
    client.call(Kind.FSYNC, messages.Sync(fid, 1))
    assert (folder / "a" / "file").read_bytes() == b"conXYnts"


def test_a_new_file_has_the_clients_mode_whatever_the_umask_is(
    client: Client, folder: Path
) -> None:
    fid = client.create(b"a", b"new", mode=0o466)
    assert client.write(fid, b"by its maker") == 12
    assert stat.S_IMODE((folder / "a" / "new").stat().st_mode) == 0o466
    client.make_directory(b"d", mode=0o777)
    assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o777
    with refusal(errno.EEXIST):
        client.create(b"a", b"new", flags=os.O_RDWR | os.O_EXCL)
    again = client.create(b"a", b"file", flags=os.O_RDWR | os.O_TRUNC)
    assert client.read(again) == b""


def test_a_directory_is_listed_in_pieces_and_again(client: Client, folder: Path) -> None:
    names = sorted(f"{number:03}{'x' * 40}".encode() for number in range(100))
    for name in names:
        (folder / "a" / os.fsdecode(name)).touch()
    assert client.names(b"a", size=256) == sorted([b"file", *names])
    fid = client.open(b"a")
    whole = client.entries(fid)
    assert len(whole) == 103
    # From the beginning again, and from a place that was passed before.
    assert client.entries(fid, 100) == whole
    one = {name: qid for qid, _, name in whole}
    assert one[b"file"].path == (folder / "a" / "file").stat().st_ino
    assert one[b".."].path == folder.stat().st_ino
    with refusal(errno.EINVAL):
        client.entries(fid, 10)
    file = client.open(b"a", b"file")
    with refusal(errno.ENOTDIR):
        client.entries(file)


def test_links_are_the_clients_to_follow(client: Client, outside: Path) -> None:
    client.symlink(b"a", b"out", target=b"../../secret")
    assert client.read_link(b"a", b"out") == b"../../secret"
    for names in ((b"a", b"out"), (b"a", b"out", b"more")):
        with refusal(errno.ENXIO, errno.ENOENT):
            client.open(*names)
    with refusal(errno.EOPNOTSUPP):
        client.change(client.walk(b"a", b"out"), 1, mode=0o777)
    assert stat.S_IMODE(outside.stat().st_mode) != 0o777
    # What is beside the folder is not truncated or touched by the link's name either.
    with refusal(errno.EINVAL):
        client.change(client.walk(b"a", b"out"), 8, size=0)
    client.change(client.walk(b"a", b"out"), 0x120, mtime=5)
    assert outside.read_text() == "secret"
    assert outside.stat().st_mtime_ns != 5 * 10**9


@pytest.mark.parametrize("name", [b"", b".", b"a/file", b"../secret", b"/", b"a\0", b"x" * 256])
def test_a_name_is_one_entrys(client: Client, outside: Path, name: bytes) -> None:
    for attempt in (
        lambda: client.walk(name),
        lambda: client.create(name),
        lambda: client.symlink(name, target=b"x"),
        lambda: client.make_directory(name),
        lambda: client.unlink(name),
        lambda: client.rename((b"a",), (name,)),
        lambda: client.rename((name,), (b"b",)),
    ):
        with pytest.raises(OSError, match=r"."):
            attempt()
    assert outside.read_text() == "secret"
    assert client.names() == [b"a"]


def test_above_the_folder_is_the_folder(client: Client, folder: Path) -> None:
    for names in ((b"..",), (b"..", b".."), (b"a", b"..", b"..", b"..")):
        assert client.is_directory(*names)
        assert client.names(*names) == [b"a"]
    with refusal(errno.ENOENT):
        client.walk(b"..", b"secret")


def test_a_directory_that_the_host_moves_out_leads_nowhere(
    client: Client, folder: Path, outside: Path
) -> None:
    (folder / "a" / "deep").mkdir()
    fid = client.walk(b"a", b"deep")
    (folder / "a").rename(outside.parent / "moved")
    with refusal(errno.EACCES):
        client.call(Kind.WALK, messages.Walk(fid, 99, (b"..",)))
    with pytest.raises(OSError, match=r"."):
        client.call(Kind.WALK, messages.Walk(fid, 99, (b"..", b"..", b"secret")))


def test_what_is_put_in_the_place_of_a_directory_is_not_followed(
    client: Client, folder: Path, outside: Path
) -> None:
    fid = client.walk(b"a")
    (folder / "a").rename(folder / "b")
    (folder / "a").symlink_to(outside.parent)
    # The held one is still the directory; by its name there is a link now.
    assert client.call(Kind.WALK, messages.Walk(fid, 99, (b"file",)))[0]
    with pytest.raises(OSError, match=r"."):
        client.walk(b"a", b"secret")


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_only_files_and_directories_are_opened(client: Client, folder: Path, kind: str) -> None:
    place = folder / "special"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(place))
    else:
        try:
            os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes devices")
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        with refusal(errno.ENXIO):
            client.open(b"special", flags=flags)
        with refusal(errno.ENXIO):
            client.create(b"special", flags=flags)
    assert stat.S_IFMT(client.mode(b"special")) == stat.S_IFMT(place.stat().st_mode)


def test_no_devices_and_no_set_user_id_files_are_made(client: Client, folder: Path) -> None:
    def node(mode: int) -> object:
        return client.call(Kind.MKNOD, messages.MakeNode(ROOT, b"n", mode, 1, 3, 0))

    for mode in (stat.S_IFCHR | 0o666, stat.S_IFBLK | 0o666, stat.S_IFREG | 0o4755):
        with refusal(errno.EPERM):
            node(mode)
    with refusal(errno.EPERM):
        client.create(b"n", mode=0o4755)
    with refusal(errno.EPERM):
        client.change(client.walk(b"a", b"file"), 1, mode=0o4755)
    assert client.names() == [b"a"]
    node(stat.S_IFIFO | 0o622)
    assert (folder / "n").stat().st_mode == stat.S_IFIFO | 0o622


def test_a_folder_for_reading_stays_as_it_is(folder: Path) -> None:
    (folder / "link").symlink_to("a")
    before = sorted((path.name, path.lstat().st_mtime_ns) for path in folder.rglob("*"))
    with client_of(folder, read_only=True) as client:
        assert client.contents(b"a", b"file") == b"contents"
        file = client.walk(b"a", b"file")
        for attempt in (
            lambda: client.open(b"a", b"file", flags=os.O_RDWR),
            lambda: client.open(b"a", b"file", flags=os.O_WRONLY),
            lambda: client.open(b"a", b"file", flags=os.O_TRUNC),
            lambda: client.create(b"new"),
            lambda: client.create(b"a", b"file", flags=os.O_RDONLY),
            lambda: client.symlink(b"new", target=b"x"),
            lambda: client.make_directory(b"new"),
            lambda: client.call(
                Kind.MKNOD, messages.MakeNode(ROOT, b"n", stat.S_IFREG | 0o600, 0, 0, 0)
            ),
            lambda: client.call(Kind.LINK, messages.Link(ROOT, file, b"new")),
            lambda: client.rename((b"a",), (b"b",)),
            lambda: client.unlink(b"a", b"file"),
            lambda: client.unlink(b"a", directory=True),
            lambda: client.change(file, 1, mode=0o600),
            lambda: client.change(file, 8, size=0),
            lambda: client.change(file, 0x30),
        ):
            with refusal(errno.EROFS):
                attempt()
    after = sorted((path.name, path.lstat().st_mtime_ns) for path in folder.rglob("*"))
    assert after == before


def test_attributes_are_the_files(client: Client, folder: Path) -> None:
    fid = client.walk(b"a", b"file")
    os.utime(folder / "a" / "file", ns=(1_000_000_001, 2_000_000_002))
    state = (folder / "a" / "file").stat()
    values = client.call(Kind.GETATTR, messages.Getattr(fid, 0x7FF))
    valid, qid, mode, uid, gid, links, device, size, block_size, blocks, *times = values
    assert (valid, mode, uid, gid) == (0x7FF, state.st_mode, state.st_uid, state.st_gid)
    assert (links, device, size) == (1, 0, 8)
    assert (block_size, blocks) == (state.st_blksize, state.st_blocks)
    assert times[:4] == [1, 1, 2, 2]
    assert qid.path == state.st_ino
    client.change(fid, 0x1 | 0x8 | 0x10 | 0x80, mode=0o640, size=3, atime=7, atime_ns=8)
    state = (folder / "a" / "file").stat()
    assert (stat.S_IMODE(state.st_mode), state.st_size) == (0o640, 3)
    assert state.st_atime_ns == 7_000_000_008
    kind, *_, longest, _ = client.call(Kind.STATFS, messages.Fid(fid))
    assert (kind, longest) == (0x01021997, os.statvfs(folder).f_namemax)
    for huge in ({"size": 1 << 63}, {"size": (1 << 64) - 1}):
        with refusal(errno.EINVAL):
            client.change(fid, 8, **huge)
    with refusal(errno.EINVAL):
        client.change(fid, 0x120, mtime=1 << 63)
    with refusal(errno.EINVAL):
        client.read(client.open(b"a", b"file"), 1, 1 << 63)


def test_a_removed_file_that_is_held_can_be_used(client: Client, folder: Path) -> None:
    fid = client.open(b"a", b"file", flags=os.O_RDWR)
    held = client.walk(b"a", b"file")
    client.unlink(b"a", b"file")
    assert client.read(fid) == b"contents"
    client.call(Kind.LOPEN, messages.Open(held, os.O_RDONLY))
    assert client.read(held) == b"contents"
    client.clunk(held)
    assert client.names(b"a") == []


def test_more_is_held_than_there_are_descriptors(folder: Path) -> None:
    for number in range(60):
        (folder / "a" / str(number)).write_text(str(number))
    with client_of(folder, descriptors=16) as client:
        start = open_descriptors()
        fids = [client.walk(b"a", str(number).encode()) for number in range(60)]
        assert open_descriptors() - start <= 16
        client.rename((b"a",), (b"b",))
        (folder / "b" / "1").rename(folder / "b" / "moved by the host")
        (folder / "another").write_text("another")
        (folder / "another").rename(folder / "b" / "2")
        for number in (1, 2):
            with refusal(errno.ESTALE):
                client.call(Kind.GETATTR, messages.Getattr(fids[number], 0x7FF))
        for number, fid in list(enumerate(fids))[3:]:
            client.call(Kind.LOPEN, messages.Open(fid, os.O_RDONLY))
            assert client.read(fid) == str(number).encode()
            client.clunk(fid)


def test_removed_files_take_no_more_than_their_part_of_the_descriptors(folder: Path) -> None:
    with client_of(folder, descriptors=16) as client:
        start = open_descriptors()
        fids = []
        for number in range(40):
            name = str(number).encode()
            (folder / "a" / str(number)).write_bytes(name)
            fids.append(client.walk(b"a", name))
            client.unlink(b"a", name)
        assert open_descriptors() - start <= 16
        for number, fid in enumerate(fids[:8]):
            client.call(Kind.LOPEN, messages.Open(fid, os.O_RDONLY))
            assert client.read(fid) == str(number).encode()
        with refusal(errno.ESTALE):
            client.call(Kind.LOPEN, messages.Open(fids[20], os.O_RDONLY))


def test_a_directory_that_is_being_listed_takes_two_descriptors(folder: Path) -> None:
    (folder / "large").mkdir()
    for number in range(100):
        (folder / "large" / f"{number:0100}").touch()
    with client_of(folder, descriptors=16) as client:

        def begin(fid: int) -> None:
            client.call(Kind.READDIR, messages.ReadPart(fid, 0, 256))

        fids = [client.open(b"large") for _ in range(8)]
        for fid in fids:
            begin(fid)
        with refusal(errno.ENFILE):
            client.open(b"a", b"file")
        client.clunk(fids.pop())
        again = client.open(b"large")
        client.open(b"a", b"file")
        # Refused more than once: a listing that could not begin has not come to its end.
        for _ in range(2):
            with refusal(errno.ENFILE):
                begin(again)
        client.clunk(fids.pop())
        assert len(client.entries(again)) == 102


def test_what_a_file_waits_for_is_not_waited_for(folder: Path) -> None:
    """A read of /proc/kmsg, a regular file of whoever shares /, would not end with the machine."""
    opened = open_folder(folder, read_only=True, descriptors=16)
    with_root = HostFolder(opened).root()
    above = with_root.walk(b"a")
    handle = above.walk(b"file")
    with_root.close()
    above.close()
    file = handle.open(os.O_RDONLY)
    flags = fcntl.fcntl(file._descriptor, fcntl.F_GETFL)
    file.close()
    handle.close()
    opened.close()
    assert flags & os.O_NONBLOCK


def test_names_have_an_end(client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "DEEPEST", 3)
    (folder / "a" / "b" / "c" / "d").mkdir(parents=True)
    deepest = client.walk(b"a", b"b", b"c")
    with refusal(errno.ENAMETOOLONG):
        client.call(Kind.WALK, messages.Walk(deepest, 1000, (b"d",)))
    before = open_descriptors()
    monkeypatch.setattr(folder_module, "MOST_IN_NAMES", 3000)
    fids = []
    with refusal(errno.ENOMEM):
        while True:
            fids.append(client.walk(b"a"))
    # A longer name of what they are in would be too much, and nothing has changed then.
    with refusal(errno.ENOMEM):
        client.rename((b"a",), (b"longer",))
    for fid in (*fids, deepest):
        client.clunk(fid)
    client.rename((b"a",), (b"longer",))
    assert client.names(b"longer") == [b"b", b"file"]
    assert open_descriptors() <= before


def test_files_that_are_open_are_counted(folder: Path) -> None:
    with client_of(folder, descriptors=16) as client:
        fids = [client.open(b"a", b"file") for _ in range(16)]
        for _ in range(3):
            with refusal(errno.ENFILE):
                client.open(b"a", b"file")
            with refusal(errno.ENFILE):
                client.create(b"a", b"new")
        client.clunk(fids.pop())
        assert client.contents(b"a", b"file") == b"contents"


def test_a_lock_is_seen_by_other_opens_and_by_the_host(client: Client, folder: Path) -> None:
    one, two = (client.open(b"a", b"file", flags=os.O_RDWR) for _ in range(2))

    def lock(fid: int, kind: int, length: int = 0) -> int:
        request = messages.Lock(fid, kind, 0, 0, length, 1, b"guest")
        return int(client.call(Kind.LOCK, request)[0])

    assert lock(one, 1) == 0
    assert lock(two, 0) == 1
    kind, *where = client.call(Kind.GETLOCK, messages.LockQuestion(two, 0, 0, 0, 7, b"g"))[:3]
    assert (kind, where) == (1, [0, 0])
    with open(folder / "a" / "file", "r+b") as here:
        with pytest.raises(OSError, match=r"."):
            fcntl.lockf(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert lock(one, 2) == 0
        fcntl.lockf(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert lock(two, 0) == 0
    assert client.call(Kind.GETLOCK, messages.LockQuestion(one, 0, 0, 0, 7, b"g"))[0] == 2
    for kind in (3, 255):
        with refusal(errno.EINVAL):
            lock(two, kind)
    with refusal(errno.EINVAL):
        lock(two, 0, 1 << 63)


@pytest.mark.slow
def test_locks_have_an_end(client: Client) -> None:
    fid = client.open(b"a", b"file", flags=os.O_RDWR)

    def lock(kind: int, start: int, length: int) -> int:
        request = messages.Lock(fid, kind, 0, start, length, 1, b"guest")
        status, _ = client.call(Kind.LOCK, request)
        return int(status)

    read, unlocked = LockType.READ, LockType.NONE
    for _ in range(2 * MOST_LOCKS):
        assert (lock(read, 0, 1), lock(unlocked, 0, 1)) == (0, 0)
    # Ranges apart from each other, and one that is cut into as many.
    for kind in (read, unlocked):
        if kind is unlocked:
            lock(read, 0, 0)
        with refusal(errno.ENOLCK):
            for place in range(MOST_LOCKS + 1):
                assert lock(kind, 2 * place + 1, 1) == 0
        assert place >= MOST_LOCKS - 1
        assert lock(unlocked, 0, 0) == 0
        assert lock(read, 5, 1) == 0
        assert lock(unlocked, 0, 0) == 0


def test_fids_are_the_clients_numbers(client: Client) -> None:
    fid = client.walk(b"a")
    for attempt in (
        lambda: client.call(Kind.WALK, messages.Walk(ROOT, fid, ())),
        lambda: client.call(Kind.WALK, messages.Walk(777, 778, ())),
        lambda: client.call(Kind.ATTACH, messages.Attach(fid, messages.NO_FID, b"", b"", 0)),
        lambda: client.call(Kind.WALK, messages.Walk(ROOT, messages.NO_FID, ())),
        lambda: client.clunk(777),
        lambda: client.read(fid),
        lambda: client.write(fid, b"x"),
    ):
        with refusal(errno.EBADF):
            attempt()
    # A walk that gets only part of the way makes no fid.
    qids, _ = client.call(Kind.WALK, messages.Walk(ROOT, 500, (b"a", b"absent")))
    assert len(qids) == 1
    with refusal(errno.EBADF):
        client.clunk(500)
    # In its place.
    client.call(Kind.WALK, messages.Walk(fid, fid, (b"file",)))
    client.call(Kind.LOPEN, messages.Open(fid, os.O_RDONLY))
    with refusal(errno.EINVAL):
        client.call(Kind.LOPEN, messages.Open(fid, os.O_RDONLY))
    with refusal(errno.EINVAL):
        client.call(Kind.WALK, messages.Walk(ROOT, 501, (b"a",) * 17))
    with refusal(errno.EOPNOTSUPP):
        client.call(Kind.REMOVE, messages.Fid(fid))
    with refusal(errno.EBADF):
        client.clunk(fid)
    # A version begins anew.
    client.begin()
    client.clunk(ROOT)


def test_a_message_that_is_none_is_no_crash(client: Client) -> None:
    for message in (b"", b"\x07\0\0", b"\x06\0\0\0\x64\0\0", b"\xff\0\0\0\x64\0\0", b"\0" * 40):
        with pytest.raises(MessageError):
            client.exchange(message)
    request = messages.request_bytes(Kind.CLUNK, 3, messages.Fid(ROOT))
    with pytest.raises(MessageError):
        client.exchange(request, room=10)
    for kind, body in ((Kind.CLUNK, b"\0"), (Kind.WRITE, b"\0" * 15), (Kind.WALK, b"\xff" * 40)):
        message = messages.HEADER.pack(7 + len(body), kind, 3) + body
        assert client.exchange(message) == messages.error_bytes(3, errno.EINVAL)
    for number in (0, 6, 7, 20, 30, 32, 101, 102, 255):
        reply = client.exchange(messages.HEADER.pack(7, number, 3))
        assert reply == messages.error_bytes(3, errno.EOPNOTSUPP)
    lying = messages.request_bytes(Kind.WRITE, 3, messages.WritePart(ROOT, 0, 10), b"x" * 9)
    assert client.exchange(lying) == messages.error_bytes(3, errno.EINVAL)
    long = messages.request_bytes(Kind.WALK, 3, messages.Walk(ROOT, 9, (b"x" * 60000,) * 2))
    assert client.exchange(long) == messages.error_bytes(3, errno.EMSGSIZE)


def test_a_reply_without_room_is_an_error(client: Client) -> None:
    with refusal(errno.EMSGSIZE):
        client.call(Kind.GETATTR, messages.Getattr(ROOT, 0x7FF), room=100)
    file = client.open(b"a", b"file")
    count, data = client.call(Kind.READ, messages.ReadPart(file, 0, 4096), room=14)
    assert (count, data) == (3, b"con")


def test_a_version_comes_first(folder: Path) -> None:
    with client_of(folder) as client:
        session = client.session
        session.reset()
        with refusal(errno.EPROTO):
            client.call(Kind.ATTACH, messages.Attach(0, messages.NO_FID, b"", b"", 0))
        other = client.call(Kind.VERSION, messages.Version(8192, b"9P2000.u"))
        assert other == (8192, b"unknown", b"")
        with refusal(errno.EMSGSIZE):
            client.call(Kind.VERSION, messages.Version(4095, messages.VERSION))
        most, *_ = client.call(Kind.VERSION, messages.Version(2**32 - 1, messages.VERSION))
        assert most == 1 << 20


def test_a_session_goes_on_where_it_was_saved(client: Client, folder: Path) -> None:
    file = client.open(b"a", b"file", flags=os.O_RDWR | os.O_TRUNC)
    client.write(file, b"kept")
    directory = client.open(b"a")
    gone = client.walk(b"a", b"file")
    (folder / "b").mkdir()
    doomed = client.walk(b"b")
    saved = client.session.save()
    (folder / "b").rmdir()
    client.begin()
    client.session.restore(*saved)
    assert client.read(file) == b"kept"
    assert sorted(name for _, _, name in client.entries(directory)) == [b".", b"..", b"file"]
    client.clunk(gone)
    with refusal(errno.ESTALE):
        client.call(Kind.GETATTR, messages.Getattr(doomed, 0x7FF))
    client.clunk(doomed)


def test_a_folder_that_cannot_be_shared_is_said(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for path, kind, word in (
        (tmp_path / "absent", NoInputError, "there is none"),
        (outside, NoInputError, "no folder"),
        (tmp_path / "loop", NoInputError, "symbolic links"),
        (tmp_path / ("x" * 300), Exception, "too long"),
    ):
        before = open_descriptors()
        with pytest.raises(kind, match=word):
            open_folder(path, read_only=True, descriptors=16)
        assert open_descriptors() <= before
    if os.geteuid():
        tmp_path.chmod(0o500)
        with pytest.raises(NoPermissionError):
            open_folder(tmp_path, read_only=False, descriptors=16)


def test_data_go_straight_to_the_guests_buffers(folder: Path) -> None:
    """Not a byte behind the reply, and none of the request, is written."""
    data = os.urandom(3000)
    (folder / "data").write_bytes(data)
    with client_of(folder) as client:
        fid = client.open(b"data")
        message = messages.request_bytes(Kind.READ, 1, messages.ReadPart(fid, 0, 9000))
        reply = bytearray(b"\xaa" * 8000)
        views = cut(reply, (5, 12, 1000, 1001, 2999))
        assert client.session.answer([memoryview(message)], views) == 3011
        assert reply[11:3011] == data
        assert reply[3011:] == b"\xaa" * (8000 - 3011)


def test_a_session_of_no_folder_leaves_nothing_open(folder: Path) -> None:
    before = open_descriptors()
    shared = open_folder(folder, read_only=True, descriptors=16)
    session = Session(HostFolder(shared))
    Client(session).begin().open(b"a")
    session.reset()
    shared.close()
    assert open_descriptors() <= before
