# SPDX-License-Identifier: MIT
"""Listening unix sockets: whose the file is, who may use it, and when it goes."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyvmm.errors import NoPermissionError, PyvmmError, UsageError
from pyvmm.machine import unix_listener
from pyvmm.machine.unix_listener import UnixListener

ATTEMPT = "listen here"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def can_connect(path: Path) -> bool:
    """Whether somebody listens, be its queue full or not."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)
        return client.connect_ex(str(path)) in (0, errno.EAGAIN)


def stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_it_is_the_owners_alone_and_gone_at_the_end(path: Path) -> None:
    before = os.umask(0)
    try:
        with UnixListener(path, ATTEMPT) as listener:
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert not os.get_inheritable(listener.socket.fileno())
            assert can_connect(path)
    finally:
        os.umask(before)
    assert not path.exists()
    listener.close()  # Twice changes nothing.


def test_its_mode_is_right_from_the_first_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []

    class Watched(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]
            modes.append(stat.S_IMODE(path.lstat().st_mode))

    monkeypatch.setattr("pyvmm.machine.unix_listener.socket.socket", Watched)
    with UnixListener(path, ATTEMPT):
        assert modes == [0o600]


def _file(path: Path) -> None:
    path.write_text("kept")


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link_to_nothing(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_file, _directory, _fifo, _link_to_nothing])
def test_nothing_else_is_overwritten(make: Callable[[Path], None], path: Path) -> None:
    make(path)
    before = path.lstat()
    with pytest.raises(UsageError, match="a file of that name exists"):
        UnixListener(path, ATTEMPT)
    assert os.path.samestat(path.lstat(), before)


def test_a_link_to_a_stale_socket_is_not_followed(path: Path, tmp_path: Path) -> None:
    stale(tmp_path / "other")
    path.symlink_to("other")
    with pytest.raises(UsageError, match="a file of that name exists"):
        UnixListener(path, ATTEMPT)
    assert (tmp_path / "other").exists()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    stale(path)
    assert not can_connect(path)
    with UnixListener(path, ATTEMPT):
        assert can_connect(path)


def test_a_live_socket_is_not_stolen(path: Path) -> None:
    with UnixListener(path, ATTEMPT):
        with pytest.raises(UsageError, match="another program listens there"):
            UnixListener(path, ATTEMPT)
        assert can_connect(path)


def test_a_live_socket_with_a_full_queue_is_not_stolen(path: Path) -> None:
    with ExitStack() as stack:
        stack.enter_context(UnixListener(path, ATTEMPT, backlog=1))
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            if client.connect_ex(str(path)):
                break
        with pytest.raises(UsageError, match="another program listens there"):
            UnixListener(path, ATTEMPT)


def test_what_has_taken_its_place_stays(path: Path) -> None:
    listener = UnixListener(path, ATTEMPT)
    path.unlink()
    with UnixListener(path, ATTEMPT):
        listener.close()
        assert can_connect(path)
    path.write_text("mine")
    listener.close()
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_of_many_at_a_stale_socket_one_gets_it(path: Path) -> None:
    """Each looks whether the socket is stale before it replaces it; nobody comes between."""
    for _ in range(20):
        stale(path)
        together = threading.Barrier(8)

        def take(together: threading.Barrier = together) -> UnixListener | None:
            together.wait()
            try:
                return UnixListener(path, ATTEMPT)
            except UsageError:
                return None

        with ThreadPoolExecutor(8) as pool:
            taken = [one.result() for one in [pool.submit(take) for _ in range(8)]]
        winners = [listener for listener in taken if listener is not None]
        assert len(winners) == 1
        assert can_connect(path)
        winners[0].close()


def test_a_directory_that_somebody_keeps_locked_is_no_reason_to_wait_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr(unix_listener, "_LOCK_PATIENCE", 0.02)
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with UnixListener(path, ATTEMPT):
            assert can_connect(path)
    finally:
        os.close(fd)


@pytest.fixture
def unwritable(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    tmp_path.chmod(0o500)
    yield tmp_path
    tmp_path.chmod(0o700)


def test_a_directory_that_may_not_be_written_to(unwritable: Path) -> None:
    with pytest.raises(NoPermissionError):
        UnixListener(unwritable / "socket", ATTEMPT)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("nowhere/socket", UsageError, "No such file or directory"),
        ("x" * 120, UsageError, "too long for a socket"),
        ("/proc/self/socket", PyvmmError, "listen here"),
    ],
)
def test_a_path_that_cannot_be(
    name: str, kind: type[PyvmmError], words: str, tmp_path: Path
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind, match=words):
        UnixListener(tmp_path / name, ATTEMPT)
    assert len(os.listdir("/proc/self/fd")) == descriptors
