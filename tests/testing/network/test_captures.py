# SPDX-License-Identifier: MIT
"""Captures of networks: what is in them, once, and what becomes of those that cannot be written."""

from __future__ import annotations

import os
import resource
import signal
import struct
import time
from pathlib import Path

import pytest

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.testing.network import captures
from pyvmm.testing.network.networks import Network
from tests.testing.network.ethernet import EVERYBODY, Card, card

pytestmark = [pytest.mark.slow, pytest.mark.net]


def frames(path: Path) -> list[bytes]:
    """Frames of a file, which is whole."""
    data = path.read_bytes()
    assert data[:4] == b"\x4d\x3c\xb2\xa1"
    found, at = [], 24
    while at < len(data):
        _, _, size, original = struct.unpack_from("<4I", data, at)
        assert size == original
        found.append(data[at + 16 : at + 16 + size])
        at += 16 + size
    assert at == len(data)
    return found


def said(path: Path, cards: list[Card]) -> list[bytes]:
    """First words of the frames that these cards sent."""
    own = {one.port.mac for one in cards}
    return [frame[14:].rstrip(b"\0") for frame in frames(path) if frame[6:12] in own]


def test_each_frame_is_there_once_in_order(network: Network, tmp_path: Path) -> None:
    first, second = tmp_path / "first.pcap", tmp_path / "second.pcap"
    with card(network.port()) as one, card(network.port()) as other, card(network.port()):
        one.send(EVERYBODY, b"too early")
        with network.capture(first) as capture:
            one.send(EVERYBODY, b"to all")
            with network.capture(second):
                other.send(one.port.mac, b"to one")
                one.send(other.port.mac, b"back")
            other.send(one.port.mac, b"the end")
        one.send(EVERYBODY, b"too late")
        assert said(first, [one, other]) == [b"to all", b"to one", b"back", b"the end"]
        assert said(second, [one, other]) == [b"to one", b"back"]
        assert capture.stop() == len(frames(first)) >= 4


def test_the_host_s_frames_are_there_and_those_that_are_lost(
    network: Network, tmp_path: Path
) -> None:
    path = tmp_path / "all.pcap"
    with (
        card(network.port()) as one,
        card(network.port()) as other,
        network.capture(path) as capture,
    ):
        host = one.arp(network.ip)
        other.port.down()
        one.send(other.port.mac, b"nobody gets it")
        capture.stop()
        answers = [frame for frame in frames(path) if frame[6:12] == host and frame[21] == 2]
        assert [answer[:6] for answer in answers] == [one.port.mac]
        assert said(path, [one])[-1] == b"nobody gets it"


def test_a_tag_is_where_the_guest_put_it_and_times_are_those_of_frames(
    network: Network, tmp_path: Path
) -> None:
    from scapy.layers import l2
    from scapy.utils import rdpcap

    path = tmp_path / "tagged.pcap"
    with card(network.port()) as one:
        before = time.time()
        with network.capture(path):
            one.send(EVERYBODY, struct.pack("!HH", 0x2005, 0x88B5) + b"tagged", 0x8100)
        after = time.time()
        (packet,) = (each for each in rdpcap(str(path)) if each.src == one.port.mac.hex(":"))
    tag = packet[l2.Dot1Q]
    assert (tag.vlan, tag.prio, tag.type) == (5, 1, 0x88B5)
    assert packet.load.rstrip(b"\0") == b"tagged"
    assert before <= float(packet.time) <= after


def test_a_file_that_cannot_be_one_is_refused(network: Network, tmp_path: Path) -> None:
    with pytest.raises(SystemCallError, match=r"cannot capture to .*no/such: No such file"):
        network.capture(tmp_path / "no" / "such")
    with pytest.raises(UsageError, match=r"cannot capture to /dev/null: it is no regular file"):
        network.capture("/dev/null")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(SystemCallError, match=r"fifo: No such device or address"):
        network.capture(tmp_path / "fifo")
    with network.capture(tmp_path / "a.pcap"):
        with pytest.raises(UsageError, match=r"a\.pcap: somebody writes to it already"):
            network.capture(tmp_path / "a.pcap")
    network.capture(tmp_path / "a.pcap").stop()


def test_a_file_that_may_not_grow_ends_behind_a_whole_frame(tmp_path: Path) -> None:
    """Without a process of its own: a limit on files is a process's, and so is a full disk."""
    path = tmp_path / "short.pcap"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = captures._File(1, os.open(path, os.O_RDWR | os.O_CREAT, 0o600), 0, 0)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        results = [written.write(bytes(40)) for _ in range(4)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        os.close(written.fd)
    assert results == [True, True, False, False]
    assert path.stat().st_size == 80
    assert written.trouble == "File too large"


def test_what_ended_a_capture_early_is_told(network: Network, tmp_path: Path) -> None:
    from pyvmm.testing.network.recordings import Capture, open_file

    path = tmp_path / "short.pcap"
    file = open_file(path)
    try:
        capture = Capture(network.ask, file, "short.pcap", 24 + 2 * 76)
    finally:
        os.close(file)
    with card(network.port()) as one:
        for _ in range(9):
            one.send(EVERYBODY, b"x")
    with pytest.raises(SystemCallError) as told:
        capture.stop()
    assert str(told.value) == (
        "cannot capture to short.pcap: after 2 frames: it has 176 bytes, and more was not wanted"
    )
    assert len(frames(path)) == capture.stop() == 2


_TWO = """
import pytest, socket

@pytest.mark.parametrize("verdict", [True, False], ids=["passes", "fails"])
def test_it(network, verdict):
    with network.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("switch", 0))
        raw.send(bytes(12) + b"\\x88\\xb5" + b"before it failed".ljust(46))
    assert verdict
"""


def test_artifacts_have_the_frames_of_a_test_that_failed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_two=_TWO)
    result = pytester.runpytest_inprocess("--pyvmm-artifacts", "kept", "-W", "error")
    result.assert_outcomes(passed=1, failed=1)
    (path,) = pytester.path.glob("kept/*/network.pcap")
    assert "fails" in path.parent.name
    assert b"before it failed" in b"".join(frames(path))


def test_artifacts_are_there_of_each_network_where_all_are_wanted(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(test_it="def test_it(networks): networks(), networks()")
    result = pytester.runpytest_inprocess("--pyvmm-artifacts=kept", "--pyvmm-artifacts-always")
    result.assert_outcomes(passed=1)
    names = sorted(path.name for path in pytester.path.glob("kept/*/*"))
    assert names == ["network.2.pcap", "network.pcap"]
