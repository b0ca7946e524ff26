# SPDX-License-Identifier: MIT
"""passt as a wire: what it answers, what it forwards, and its end, whoever ends first."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from pyvmm.errors import HostLacksError, UsageError
from pyvmm.net import passt
from pyvmm.net.forwards import Forward, ForwardProtocol
from pyvmm.net.frames import WireEndedError
from pyvmm.net.namespaces import new_namespace, within
from pyvmm.net.passt import MOST_MTU, PasstWire, open_passt

from .passt_outside import ADDRESS, GATEWAY, outside

pytestmark = pytest.mark.passt
MAC = bytes.fromhex("525400123456")
HEADER = bytes(10) + b"\1\0"
IP, TCP, UDP = b"\x08\0", 6, 17
PORT = 2222
NEWNS, BIND, REC, PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
"""CLONE_NEWNS, and flags of mount(2)."""


@pytest.fixture(scope="module")
def netns() -> Iterator[int]:
    with outside() as fd:
        yield fd


def opened(netns: int, *forwards: Forward, mtu: int | None = None) -> PasstWire:
    return within(netns, partial(open_passt, forwards, mtu))


def send(wire: PasstWire, frame: bytes) -> None:
    wire.queues[0].send([memoryview(HEADER), memoryview(frame)])


def received(wire: PasstWire, wanted: Callable[[bytes], bool]) -> bytes:
    """The next frame that is wanted; there are others, such as router advertisements."""
    room = memoryview(bytearray(2000))
    while True:
        select.select([wire.queues[0]], (), ())
        try:
            frame = bytes(room[12 : wire.queues[0].receive([room])])
        except BlockingIOError:
            continue
        if wanted(frame):
            return frame


def is_for(protocol: int, port: int) -> Callable[[bytes], bool]:
    def wanted(frame: bytes) -> bool:
        found = struct.unpack_from(">H", frame, 36)[0] if len(frame) >= 38 else None
        return frame[12:14] == IP and frame[23] == protocol and found == port

    return wanted


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def datagram(ports: tuple[int, int], target: str, data: bytes, source: str = "0.0.0.0") -> bytes:
    udp = struct.pack(">4H", *ports, 8 + len(data), 0) + data
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, UDP, 0)
    ip += socket.inet_aton(source) + socket.inet_aton(target)
    ip = ip[:10] + struct.pack(">H", checksum(ip)) + ip[12:]
    return b"\xff" * 6 + MAC + IP + ip + udp


def dhcp_discover() -> bytes:
    bootp = struct.pack(">4BI", 1, 1, 6, 0, 0x1234) + bytes(20) + MAC + bytes(10 + 64 + 128)
    bootp += bytes.fromhex("63825363 350101 3704 01 03 06 1a ff") + bytes(32)
    return datagram((68, 67), "255.255.255.255", bootp)


def dhcp_options(frame: bytes) -> dict[int, bytes]:
    found, at = {}, 14 + 20 + 8 + 240
    while frame[at] != 255:
        code, size = frame[at], frame[at + 1]
        found[code] = frame[at + 2 : at + 2 + size]
        at += 2 + size
    return found


def test_it_gives_the_guest_this_machines_address_and_an_mtu(netns: int) -> None:
    with opened(netns, mtu=1400) as wire:
        assert wire.mtu == 1400
        send(wire, dhcp_discover())
        offer = received(wire, is_for(UDP, 68))
        assert offer[:6] == MAC
        assert socket.inet_ntoa(offer[58:62]) == ADDRESS
        options = dhcp_options(offer)
        assert options[1] == b"\xff\xff\xff\0"
        assert options[26] == struct.pack(">H", 1400)
        assert 3 in options


def bound_datagrams(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("0.0.0.0", port))
    return made


def test_names_are_asked_of_this_machines_resolver(netns: int, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")

    def resolver() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.1", 53))
        return made

    def start() -> PasstWire:
        # Of this thread, and of passt, alone.
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.unshare(NEWNS) == 0
        for source, target, flags in (
            (None, b"/", REC | PRIVATE),
            (bytes(tmp_path / "resolv.conf"), b"/etc/resolv.conf", BIND),
        ):
            assert libc.mount(source, target, None, flags, None) == 0, ctypes.get_errno()
        return open_passt()

    question = bytes(range(60))  # Nobody but the resolver looks into it.
    with within(netns, resolver) as asked, within(netns, start) as wire:
        send(wire, dhcp_discover())
        server = socket.inet_ntoa(dhcp_options(received(wire, is_for(UDP, 68)))[6][:4])
        assert server == GATEWAY  # What stands for this machine.
        send(wire, datagram((5000, 53), server, question, source=ADDRESS))
        data, place = asked.recvfrom(1000)
        assert data == question
        asked.sendto(b"an answer", place)
        answer = received(wire, is_for(UDP, 5000))
        assert answer.endswith(b"an answer")
        assert socket.inet_ntoa(answer[26:30]) == GATEWAY


@pytest.mark.parametrize("address", ["", "127.0.0.1"])
def test_forwarded_ports_lead_to_the_guest(netns: int, address: str) -> None:
    with opened(netns, Forward(ForwardProtocol.TCP, PORT, 22, address)) as wire:
        send(wire, dhcp_discover())
        with within(netns, partial(socket.create_connection, ("127.0.0.1", PORT))):
            assert received(wire, is_for(TCP, 22))[47] == 0x02  # SYN
        # No other port is the guest's, not even the same one of UDP.
        within(netns, partial(bound_datagrams, PORT)).close()


def test_ipv6_without_a_network_for_it_is_refused(netns: int) -> None:
    with pytest.raises(HostLacksError, match="Failed to bind any port") as caught:
        opened(netns, Forward(ForwardProtocol.TCP, PORT, 22, "::1"))
    assert "no default route for IPv6" in caught.value.remedy


def test_forwarded_datagrams(netns: int) -> None:
    def tell() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as teller:
            teller.sendto(b"hello there", ("127.0.0.1", 5300))

    with opened(netns, Forward(ForwardProtocol.UDP, 5300, 53)) as wire:
        send(wire, dhcp_discover())
        within(netns, tell)
        assert received(wire, is_for(UDP, 53)).endswith(b"hello there")


@pytest.mark.parametrize("protocol", ForwardProtocol)
@pytest.mark.parametrize("taken", ["0.0.0.0", "::"])
def test_a_port_that_is_taken_is_refused(netns: int, protocol: ForwardProtocol, taken: str) -> None:
    def take() -> socket.socket:
        family = socket.AF_INET6 if ":" in taken else socket.AF_INET
        tcp = protocol is ForwardProtocol.TCP
        made = socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM)
        if ":" in taken:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((taken, PORT))
        if tcp:
            made.listen()
        return made

    with within(netns, take), pytest.raises(UsageError) as caught:
        opened(netns, Forward(protocol, PORT, 22))
    name = protocol.value
    assert str(caught.value) == (
        f"cannot forward {name}::2222-:22: {name} port 2222 is taken; give another one"
    )


def test_an_address_that_is_not_this_machines_is_refused(netns: int) -> None:
    with pytest.raises(UsageError, match=r"10\.1\.2\.3 is no address of this machine's"):
        opened(netns, Forward(ForwardProtocol.TCP, PORT, 22, "10.1.2.3"))


def test_an_mtu_that_is_too_large_is_refused(netns: int) -> None:
    with pytest.raises(UsageError, match="passt's is at most 65520"):
        opened(netns, mtu=MOST_MTU + 1)


def test_a_machine_without_a_network_is_told_apart() -> None:
    fd = new_namespace()
    try:
        with pytest.raises(HostLacksError, match="No external routable interface") as caught:
            opened(fd)
    finally:
        os.close(fd)
    assert "default route" in caught.value.remedy
    assert "syslog" not in str(caught.value)


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/var/empty")
    with pytest.raises(HostLacksError, match="there is no passt; install passt"):
        open_passt()


def test_it_ends_with_its_wire_and_leaves_nothing(netns: int) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with opened(netns) as wire:
        pid = wire.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    wire.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_descriptors_may_be_large(netns: int) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2048:
        pytest.skip("there may be no so many descriptors")
    with ExitStack() as stack:
        if limits[0] < 2048:
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
            resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
        while (fd := os.dup(netns)) < 1100:
            stack.callback(os.close, fd)
        stack.callback(os.close, fd)
        assert stack.enter_context(opened(netns)).queues[0].fileno() > 1100


def test_one_that_does_not_end_is_killed(netns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passt, "_END_PATIENCE", 0.01)
    wire = opened(netns)
    os.kill(wire.pid, signal.SIGSTOP)
    wire.close()
    with pytest.raises(ProcessLookupError):
        os.kill(wire.pid, 0)


@pytest.mark.parametrize(
    ("by", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGRTMIN + 1, "signal 35")]
)
def test_its_own_end_is_told(netns: int, by: int, name: str) -> None:
    with opened(netns) as wire:
        os.kill(wire.pid, by)
        with pytest.raises(WireEndedError, match=f"passt has ended with {name}"):
            received(wire, lambda _: True)
        with pytest.raises(WireEndedError, match=name):
            send(wire, dhcp_discover())


def test_it_does_not_outlive_a_process_that_is_killed(netns: int) -> None:
    code = (
        "import sys; from functools import partial; from pyvmm.net.passt import open_passt;"
        "from pyvmm.net.namespaces import within;"
        "wire = within(int(sys.argv[1]), open_passt); print(wire.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(netns)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=[netns],
    ) as process:
        assert process.stdout is not None
        pidfd = os.pidfd_open(int(process.stdout.readline()))
        try:
            assert select.select([pidfd], (), (), 0)[0] == []
            process.kill()
            assert select.select([pidfd], (), (), 60)[0] == [pidfd]
        finally:
            os.close(pidfd)


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """Have a program of ours be passt."""
    script = folder / "passt"
    script.write_text(f"#!{sys.executable}\nimport os, pathlib, sys, time\n{code}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("Failed to sandbox process, exiting", "it needs user, PID, IPC and UTS namespaces"),
        ("External interface not usable", "give this machine a default route"),
        ("something else", r"see passt\(1\)"),
    ],
)
def test_an_end_at_the_start_has_a_remedy(
    line: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "No external routable interface for IPv6"
    stand_in(monkeypatch, tmp_path, f"sys.exit({first!r} + chr(10) + {line!r})")
    with pytest.raises(HostLacksError, match=remedy) as caught:
        open_passt()
    assert f"passt has ended with exit code 1: {first}; {line}" in str(caught.value)


def test_one_that_only_closes_its_socket_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passt, "_END_PATIENCE", 0.01)
    close = "os.close(int(sys.argv[sys.argv.index('--fd') + 1]))"
    write = f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))"
    stand_in(monkeypatch, tmp_path, f"{write}; {close}; time.sleep(1000)")
    with pytest.raises(HostLacksError, match="passt has closed its socket"):
        open_passt()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
