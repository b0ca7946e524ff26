# SPDX-License-Identifier: MIT
"""``--console unix:PATH``: one client at a time, and none is waited for longer than needed."""

from __future__ import annotations

import json
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.readable import is_listened_on

from ..cli import flat
from ..cli.command import HANG, ending, finish, pyvmm, start, until

pytestmark = [pytest.mark.kvm, pytest.mark.slow]  # each starts processes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console"


@contextmanager
def client(path: Path) -> Iterator[socket.socket]:
    def connected() -> bool:
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(HANG)
        until(connected, f"a listener on {path}")
        yield sock


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := sock.recv(size - len(data))):
        data += piece
    return data


def test_mode_and_removal(path: Path) -> None:
    with ending(start("run", "echo", "--console", f"unix:{path}")) as process:
        with client(path) as sock:
            status = path.lstat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o600
            sock.sendall(b"hi")
            assert receive(sock, 2) == b"hi"
            sock.sendall(b"\x04")
            assert receive(sock, 1) == b""
        outcome = finish(process)
    assert (outcome.code, outcome.out, outcome.err) == (0, b"", "")
    assert not path.exists()


def test_removed_after_a_signal(path: Path) -> None:
    with ending(start("run", "hang", "--console", f"unix:{path}")) as process:
        with client(path) as sock:
            assert receive(sock, 8) == b"hanging\n"
            process.send_signal(signal.SIGTERM)
            assert receive(sock, 1) == b""
        assert finish(process).code == 130
    assert not path.exists()


def test_output_waits_for_a_client(path: Path) -> None:
    with ending(start("run", "hang", "--console", f"unix:{path}")) as process:
        until(partial(is_listened_on, path), "the socket")
        with client(path) as sock:
            assert receive(sock, 8) == b"hanging\n"
        process.send_signal(signal.SIGTERM)
        assert finish(process).code == 130


def test_client_that_leaves_makes_place_for_the_next(path: Path) -> None:
    with ending(start("run", "echo", "--console", f"unix:{path}")) as process:
        for word in (b"one", b"two", b"three"):
            # The guest says nothing between two clients: that one has gone must be noticed anyway.
            with client(path) as sock:
                sock.sendall(word)
                assert receive(sock, len(word)) == word
        with client(path) as sock:
            sock.sendall(b"\x04")
            assert receive(sock, 1) == b""
        assert finish(process).code == 0


def test_second_client_waits_for_its_turn(path: Path) -> None:
    with ending(start("run", "echo", "--console", f"unix:{path}")) as process:
        with client(path) as first, client(path) as second:
            second.sendall(b"second")
            first.sendall(b"first")
            assert receive(first, 5) == b"first"
            first.close()
            assert receive(second, 6) == b"second"
            second.sendall(b"\x04")
            assert receive(second, 1) == b""
        assert finish(process).code == 0


def test_client_that_ends_its_input_still_reads(path: Path) -> None:
    with ending(start("run", "echo", "--console", f"unix:{path}")) as process:
        with client(path) as sock:
            sock.sendall(b"one")
            sock.shutdown(socket.SHUT_WR)
            assert receive(sock, 3) == b"one"
        with client(path) as sock:  # the first is gone, although it never said so
            sock.sendall(b"two\x04")
            assert receive(sock, 4) == b"two"
        assert finish(process).code == 0


def fill(sock: socket.socket) -> int:
    """Send until nothing more is taken for a second; how many bytes were."""
    sock.settimeout(1)
    sent = 0
    try:
        while True:
            sent += sock.send(b"x" * (1 << 16))
    except TimeoutError:
        return sent


@pytest.mark.slow
def test_client_that_fills_the_queue_and_goes_makes_place_for_the_next(path: Path) -> None:
    with ending(start("run", "hang", "--console", f"unix:{path}")) as process:
        with client(path) as sock:
            assert receive(sock, 8) == b"hanging\n"
            assert fill(sock) > 1 << 16
        # Whoever is served takes input; one that only waits has its socket's buffer alone.
        with client(path) as second, client(path) as third:
            assert fill(second) > fill(third)
        process.send_signal(signal.SIGTERM)
        assert finish(process).code == 130


@pytest.mark.slow
def test_input_of_a_client_that_is_gone_still_arrives(path: Path, tmp_path: Path) -> None:
    # Silent, so that nothing tells the server early of the client's end.
    count = 1 << 18
    (tmp_path / "image").write_bytes(flat.taking(count))
    with ending(start("run", tmp_path / "image", "--console", f"unix:{path}")) as process:
        with client(path) as sock:
            sock.sendall(b"x" * count)
        assert finish(process).code == 7


@pytest.mark.slow
def test_nothing_is_lost_between_clients(path: Path, tmp_path: Path) -> None:
    count = 1 << 17
    (tmp_path / "image").write_bytes(flat.counting(count))
    seen = b""
    with ending(start("run", tmp_path / "image", "--console", f"unix:{path}")) as process:
        with client(path) as sock:
            while data := sock.recv(1 << 16):
                seen += data
        assert finish(process).code == 7
    assert seen == flat.counted(count)


def test_guest_that_ends_without_a_client(path: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    outcome = pyvmm("run", "panic", "--console", f"unix:{path}", "--json", result)
    told = json.loads(result.read_text())
    assert outcome.code == 81
    assert told["console_bytes_unread"] == told["console_bytes"] > 0
    assert any("were not read" in line for line in outcome.lines)
    assert not path.exists()


def test_stale_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert path.is_socket()
    outcome = pyvmm("run", "exit", "--console", f"unix:{path}")
    assert (outcome.code, outcome.err) == (0, "")
    assert not path.exists()


def test_second_run_on_the_same_socket_is_refused(path: Path) -> None:
    with ending(start("run", "echo", "--console", f"unix:{path}")) as process:
        with client(path) as sock:
            sock.sendall(b"x")
            assert receive(sock, 1) == b"x"
            outcome = pyvmm("run", "hello", "--console", f"unix:{path}")
            assert (outcome.code, len(outcome.lines)) == (64, 1)
            sock.sendall(b"y\x04")
            assert receive(sock, 2) == b"y"
        assert finish(process).code == 0


def test_interrupted_with_output_on_its_way(path: Path, tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(flat.ENDLESS)
    result = tmp_path / "result.json"
    with (
        ending(
            start("run", tmp_path / "image", "--console", f"unix:{path}", "--json", result)
        ) as process,
        client(path) as sock,
    ):
        seen = receive(sock, 1000)
        process.send_signal(signal.SIGTERM)
        assert process.wait(HANG) == 130
        while data := sock.recv(1 << 16):
            seen += data
    told = json.loads(result.read_text())
    assert seen == flat.counted(len(seen))
    assert told["console_bytes"] == len(seen) + told["console_bytes_unread"]
