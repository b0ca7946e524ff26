# SPDX-License-Identifier: MIT
"""A lab that is shared by those who use it, and a command in it whose streams are the caller's."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyvmm.lab import starting
from pyvmm.lab.failures import LabError
from pyvmm.lab.protocol import WINDOW
from pyvmm.lab.remote_command import RemoteCommand
from pyvmm.lab.settings import LabSettings, LabWishes
from tests.lab.places import HANG, LabAtHand, qemus_of

pytestmark = [pytest.mark.lab, pytest.mark.slow]

ECHO = """\
import sys
for line in sys.stdin.buffer:
    sys.stdout.buffer.write(line)
    sys.stdout.flush()
"""


@pytest.fixture
def place(no_lab: LabAtHand, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder where no lab is up, this process's own place for one."""
    folder = Path(no_lab.env["XDG_RUNTIME_DIR"])
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    yield folder
    assert gone(folder)


def gone(folder: Path) -> bool:
    deadline = time.monotonic() + HANG
    while qemus_of(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not qemus_of(folder)


def started(connection: socket.socket, *arguments: str) -> RemoteCommand:
    command = RemoteCommand(connection, arguments, os.environb, Path("/"), HANG)
    try:
        command.wait_for_start()
    except LabError:
        command.close()
        raise
    return command


def settings() -> LabSettings:
    return LabWishes().settings()


def test_it_is_there_as_long_as_somebody_uses_it(place: Path) -> None:
    connection, held = starting.share(settings())
    assert held is not None
    first = started(connection, sys.executable, "-c", ECHO)
    joined, other = starting.share(settings())
    assert other is None
    second = started(joined, "/bin/sh", "-c", "read line; echo $line; echo why >&2; exit 3")
    # More than is let on its way at once, in both directions.
    line = b"\x00\xff" * WINDOW + b"\n"
    first.send(line)
    assert first.receive_line() == line[:-1]
    first.close()
    held.close()
    second.send(b"still\n")
    assert second.receive_line() == b"still"
    assert second.receive_line() is None
    assert (second.ending, second.last_lines) == ("it ended with 3", "why\n")
    second.close()
    assert gone(place)


def test_one_that_dies_says_so(place: Path) -> None:
    connection, held = starting.share(settings())
    assert held is not None
    with pytest.raises(LabError, match=r"could not be started \(execute: No such file"):
        started(starting.share(settings())[0], "/no/such/program")
    command = started(connection, "/bin/cat")
    for pid in qemus_of(place):
        if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(LabError, match="SIGKILL"):
        command.receive_line()
    command.close()
    held.close()
