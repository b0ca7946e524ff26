# SPDX-License-Identifier: MIT
"""``pyvmm run net --net user``: a guest gets an address by DHCP, and is reached by its ports."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyvmm.net.namespaces import within

from .passt_outside import ADDRESS, outside

pytestmark = [pytest.mark.passt, pytest.mark.slow]
FORWARDS = "hostfwd=tcp:127.0.0.1:2222-:7,hostfwd=udp::5300-:7"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def netns() -> Iterator[int]:
    with outside() as fd:
        yield fd


@contextmanager
def running(netns: int, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """The guest, in a process that lives in the namespace."""
    command = [sys.executable, "-m", "pyvmm", "run", "net", "--append", "serve=1", *options]

    def start() -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, bufsize=0)

    with within(netns, start) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[bytes], text: bytes) -> bytes:
    """Wait until the guest has said that; everything up to there."""
    assert process.stdout is not None
    output = b""
    while text not in output:
        assert select.select([process.stdout], (), (), PATIENCE)[0], output
        more = process.stdout.read(4096)
        assert more, output
        output += more
    return output


def passt_of(process: subprocess.Popen[bytes]) -> int:
    """Descriptor of the passt that a process has as its child."""
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    [pid] = {word for thread in threads for word in thread.read_text().split()}
    return os.pidfd_open(int(pid))


def has_ended(pidfd: int) -> bool:
    try:
        return select.select([pidfd], (), (), PATIENCE)[0] == [pidfd]
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("host", ["model", pytest.param("kvm", marks=pytest.mark.kvm)])
def test_a_guest_gets_an_address_and_is_reached(netns: int, host: str, tmp_path: Path) -> None:
    capture = tmp_path / "a.pcap"
    net = f"user,{FORWARDS},pcap={capture}"
    with running(netns, "--host", host, "--net", net) as process:
        assert f"at {ADDRESS}, netmask 255.255.255.0".encode() in said(process, b", gateway ")
        data = os.urandom(20_000)

        def converse() -> bytes:
            with socket.create_connection(("127.0.0.1", 2222), PATIENCE) as stream:
                stream.settimeout(PATIENCE)
                stream.sendall(data)
                got = b""
                while len(got) < len(data):
                    got += stream.recv(1 << 16)
                return got

        def say_end() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as teller:
                teller.settimeout(PATIENCE)
                teller.connect(("127.0.0.1", 5300))
                teller.send(b"hello")
                assert teller.recv(100) == b"hello"
                teller.send(b"end")

        assert within(netns, converse) == data
        passt = passt_of(process)
        within(netns, say_end)
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert [line for line in process.stderr.read().splitlines() if b"model" not in line] == []
        assert has_ended(passt)
    # DHCP is in it, and what the guest was sent.
    captured = capture.read_bytes()
    assert b"\x63\x82\x53\x63" in captured
    assert len(captured) > 2 * len(data)


def test_a_guest_goes_on_without_passt(netns: int) -> None:
    with running(netns, "--host", "model", "--net", "user") as process:
        said(process, b", gateway ")
        passt = passt_of(process)
        signal.pidfd_send_signal(passt, signal.SIGKILL)
        assert has_ended(passt)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == (
            b"pyvmm: the network of net 0 has ended: passt has ended with SIGKILL; "
            b"the guest has no link\n"
        )
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 130


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_passt_outlives_a_run(netns: int, how: signal.Signals) -> None:
    with running(netns, "--host", "model", "--net", "user") as process:
        said(process, b", gateway ")
        passt = passt_of(process)
        process.send_signal(how)
        process.wait(PATIENCE)
        assert has_ended(passt)
