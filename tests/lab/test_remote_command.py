# SPDX-License-Identifier: MIT
"""A caller's own command in the lab, with a keeper that is a socket of the test's."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyvmm.lab import failures, remote_command
from pyvmm.lab.failures import LabError, LabPanicError, LabSilentError
from pyvmm.lab.protocol import Decoder, Frame, FrameType, Request, Step, Stream, credit
from pyvmm.lab.remote_command import RemoteCommand

STARTED = Frame(FrameType.STARTED, payload=struct.pack("<I", 7))
SOON = 0.05
WINDOW = 4096


class Keeper:
    """The other end."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._frames = Decoder()

    def say(self, *frames: Frame) -> None:
        self.end.sendall(b"".join(frame.encode() for frame in frames))

    def heard(self) -> list[Frame]:
        return list(self._frames.feed(self.end.recv(1 << 20)))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RemoteCommand, Keeper]]:
    monkeypatch.setattr(remote_command, "WINDOW", WINDOW)  # What a socket holds by itself.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = RemoteCommand(ours, ["/bin/cat", "-u"], {b"A": b"b"}, Path("/tmp"), SOON)
        yield command, Keeper(theirs)
        command.close()


def test_it_is_asked_for_and_starts(pair: tuple[RemoteCommand, Keeper]) -> None:
    command, keeper = pair
    (start,) = keeper.heard()
    request = Request.decode(start.payload)
    assert (start.type, request.directory) == (FrameType.START, b"/tmp")
    assert (request.arguments, request.environment) == ((b"/bin/cat", b"-u"), (b"A=b",))
    keeper.say(STARTED)
    command.wait_for_start()


def test_lines_however_they_come_and_the_end(pair: tuple[RemoteCommand, Keeper]) -> None:
    command, keeper = pair
    keeper.say(
        STARTED,
        Frame(FrameType.DATA, Stream.OUTPUT, payload=b"one\ntw"),
        Frame(FrameType.DATA, Stream.ERROR, payload=b"why\n"),
        Frame(FrameType.DATA, Stream.OUTPUT, payload=b"o\nthr"),
        Frame(FrameType.EXITED, payload=struct.pack("<II", 0, 3)),
    )
    assert [command.receive_line() for _ in range(3)] == [b"one", b"two", None]
    assert (command.ending, command.last_lines) == ("it ended with 3", "why\n")
    granted = [frame.words()[0] for frame in keeper.heard() if frame.type == FrameType.CREDIT]
    assert granted == [6, 4, 5]


def test_the_end_counts_though_the_keeper_has_gone_by_then(
    pair: tuple[RemoteCommand, Keeper],
) -> None:
    """Output and the end may be read together, when nobody is there any more to take credit."""
    command, keeper = pair
    keeper.say(
        STARTED,
        Frame(FrameType.DATA, Stream.OUTPUT, payload=b"skipped\n"),
        Frame(FrameType.EXITED, payload=struct.pack("<II", 0, 4)),
    )
    keeper.heard()
    keeper.end.close()
    command.wait_for_start()
    command.end_input()
    assert [command.receive_line() for _ in range(2)] == [b"skipped", None]
    assert command.status == 4


def test_no_more_is_sent_than_the_lab_takes(pair: tuple[RemoteCommand, Keeper]) -> None:
    command, keeper = pair
    command.send(bytes(WINDOW))
    with pytest.raises(LabSilentError):
        command.send(b"one more")
    keeper.say(credit(Stream.INPUT, 3))
    with pytest.raises(LabSilentError):
        command.send(b"one more")
    keeper.end.setblocking(False)
    sent = [frame.payload for frame in keeper.heard() if frame.type == FrameType.DATA]
    assert b"".join(sent) == bytes(WINDOW) + b"one"


def close(keeper: Keeper) -> None:
    keeper.end.close()


@pytest.mark.parametrize(
    ("act", "kind", "said"),
    [
        (lambda _: None, LabSilentError, "nothing came from it for 0.05 s"),
        (close, LabError, "the lab has ended"),
        (
            lambda keeper: keeper.say(
                Frame(FrameType.REFUSED, payload=struct.pack("<II", Step.DIRECTORY, 2))
            ),
            LabError,
            r"could not be started \(directory: No such file or directory\)",
        ),
        (
            lambda keeper: keeper.say(
                Frame(FrameType.FAILED, payload=failures.to_bytes(LabPanicError("use it", "oops")))
            ),
            LabPanicError,
            "oops",
        ),
    ],
    ids=["silent", "closed", "refused", "failed"],
)
def test_a_lab_that_is_lost(
    pair: tuple[RemoteCommand, Keeper],
    act: Callable[[Keeper], None],
    kind: type[LabError],
    said: str,
) -> None:
    command, keeper = pair
    act(keeper)
    with pytest.raises(kind, match=said):
        command.wait_for_start()
