# SPDX-License-Identifier: MIT
"""Captures: what other programs read in them, and files that take no more."""

from __future__ import annotations

import errno
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pyvmm.net.capture import MOST_WAITING, CaptureFile, CaptureWire
from pyvmm.net.stream_wire import StreamWire

HEADER = bytes(10) + b"\1\0"


def frame(number: int) -> bytes:
    return bytes(range(12)) + b"\x08\0" + bytes([number]) * (10 * number)


def captured(path: Path) -> list[tuple[bytes, float]]:
    """Frames that scapy finds in a file, and when they were seen."""
    from scapy.utils import RawPcapReader  # Every process that collects tests would load it.

    with RawPcapReader(str(path)) as reader:
        assert reader.linktype == 1
        return [(data, seen.sec + seen.usec / 1e9) for data, seen in reader]


@contextmanager
def opened(path: Path) -> Iterator[CaptureFile]:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
    try:
        yield CaptureFile(fd)
    finally:
        os.close(fd)


def add(file: CaptureFile, data: bytes) -> None:
    file.add([memoryview(HEADER)[:3], memoryview(HEADER + data)[3:]])


def test_frames_of_both_ways_are_read_by_scapy(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    before = time.time()
    with ExitStack() as stack:
        ours, peer = map(stack.enter_context, socket.socketpair())
        inner = StreamWire(ours, mtu=1400)
        wire = CaptureWire(inner, stack.enter_context(opened(path)))
        assert (wire.mtu, wire.offloads, wire.descriptors) == (1400, inner.offloads, ())
        [queue] = wire.queues
        assert queue.fileno() == ours.fileno()
        room = memoryview(bytearray(1000))
        with pytest.raises(BlockingIOError):
            queue.receive([room])
        for number in range(4):
            queue.send([memoryview(HEADER)[:5], memoryview(HEADER + frame(number))[5:]])
            data = peer.recv(1000)
            assert data[4:] == frame(number)
            peer.sendall(len(frame(9)).to_bytes(4, "big") + frame(9))
            assert queue.receive([room[:20], room[20:]]) == 12 + len(frame(9))
        with pytest.raises(OSError, match="too long"):
            queue.send([memoryview(HEADER)])  # What was not sent is not captured.
    frames, times = zip(*captured(path), strict=True)
    assert frames == tuple(each for number in range(4) for each in (frame(number), frame(9)))
    assert all(before - 1 <= seen <= time.time() + 1 for seen in times)


def test_a_full_disk_ends_the_capture_behind_a_whole_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    failures: list[OSError] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(path) as file:
        file.on_failure = failures.append
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
        try:
            for _ in range(9):
                add(file, frame(3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        add(file, frame(1))  # What fits again is not told from what does not.
    assert [failure.errno for failure in failures] == [errno.EFBIG]
    assert file.failure is failures[0]
    assert [data for data, _ in captured(path)] == [frame(3)] * 4


def test_a_device_that_is_full_fails_once(tmp_path: Path) -> None:
    with opened(Path("/dev/full")) as file:
        assert file.failure is not None
        assert file.failure.errno == errno.ENOSPC
        add(file, frame(1))


def test_a_reader_gets_everything_or_is_left(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with opened(path) as file:
            count = 0
            while not file._waiting:
                add(file, frame(9))
                count += 1
            got = b""
            while file._waiting:
                got += os.read(reader, 1 << 20)
                add(file, frame(9))
                count += 1
            got += os.read(reader, 1 << 20)
            (tmp_path / "b.pcap").write_bytes(got)
            assert [data for data, _ in captured(tmp_path / "b.pcap")] == [frame(9)] * count
            while file.failure is None:
                add(file, bytes(50_000))
                assert len(file._waiting) <= MOST_WAITING
            assert "does not keep up" in str(file.failure)
    finally:
        os.close(reader)


def test_a_reader_that_has_left_is_told(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with opened(path) as file:
        os.close(reader)
        add(file, frame(1))
    assert file.failure is not None
    assert file.failure.errno == errno.EPIPE
