# SPDX-License-Identifier: MIT
"""From the outside: finding a lab that is up, starting one, ending one.

Nothing here imports trio: a command in a lab that is up must not wait for that.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path

from pyvmm.errors import PyvmmError, SystemCallError, UsageError
from pyvmm.lab import failures
from pyvmm.lab.failures import LabBusyError, LabError
from pyvmm.lab.folders import run_folder, shared_folder
from pyvmm.lab.protocol import Decoder, Frame, FrameType
from pyvmm.lab.settings import SOCKET_NAME, STARTED_IN, LabSettings, LabWishes, working_directory

_SHORT_PATIENCE = 10.0
_START_PATIENCE = 150.0
_LOOK_AGAIN = 0.1
_KEEPER_LOG = "keeper.log"
_ADDRESS_MAX = 100


def connect(directory: Path | None = None, *, waits: bool = True) -> socket.socket | None:
    """A connection to the keeper of the lab that is up; None where none is.

    `directory`: the folder of a lab that `share` started. One that does not wait is None, too,
    where the keeper has so many connections to take that no more fit in its queue: it may hang.
    """
    directory = directory or run_folder()
    path = directory / SOCKET_NAME
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(waits)
    try:
        if len(os.fsencode(path)) <= _ADDRESS_MAX:
            connection.connect(str(path))
        else:
            folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{folder}/{SOCKET_NAME}")
            finally:
                os.close(folder)
    except (FileNotFoundError, ConnectionError, BlockingIOError):
        # Not there, left behind by a keeper that was killed, or its queue is full.
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise SystemCallError(
            f"connect to {path}", error.errno or 0, error.strerror or str(error)
        ) from error
    connection.setblocking(True)
    return connection


def connect_if_met(wishes: LabWishes) -> socket.socket | None:
    """`connect`, if the lab that is up is what was asked for."""
    if not wishes.any_lab_will_do:
        answer = status()
        if answer is None or not wishes.are_met_by(_settings_of(answer)):
            return None
    return connect()


def status() -> dict[str, object] | None:
    """Ask the lab that is up for its status; None where none is. Raises `LabError`."""
    connection = connect()
    if connection is None:
        return None
    with connection:
        connection.settimeout(_SHORT_PATIENCE)
        try:
            connection.sendall(Frame(FrameType.STATUS).encode())
            frame = _one_frame(connection)
        except TimeoutError as error:
            raise LabError(
                "ask the lab how it is",
                f"its keeper does not answer in {_SHORT_PATIENCE:g} s",
                "run pyvmm lab down",
            ) from error
        except ConnectionError:
            return None
    if frame is None:
        return None
    if frame.type != FrameType.STATUS:
        raise failures.from_bytes(frame.payload)
    answer: dict[str, object] = json.loads(frame.payload)
    return answer


def _settings_of(answer: dict[str, object]) -> LabSettings:
    names = ("kernel", "cpus", "memory", "writable", "monitor")
    # One that came up before there was more than one monitor says none.
    return LabSettings.from_json(json.dumps({n: answer[n] for n in names if n in answer}))


def start_for_one_command(settings: LabSettings) -> socket.socket:
    """Start a lab; the connection takes one command, and the lab ends with it."""
    return _start_keeper("once", settings)


def share(settings: LabSettings) -> tuple[socket.socket, socket.socket | None]:
    """Join a lab of such settings that is shared, or start it: a connection for one command.

    The other socket, where there is one, is to be kept open as long as the lab is wanted: it ends
    when nobody has a connection to it any more. Raises what starting can raise.
    """
    directory = shared_folder(f"{settings.to_json()} {working_directory()}")
    deadline = time.monotonic() + _START_PATIENCE
    while True:
        connection = connect(directory)
        if connection is not None:
            return connection, None
        starter = _start_keeper("shared", settings, directory)
        try:
            if _is_ready(starter, deadline):
                connection = connect(directory)
                if connection is not None:
                    return connection, starter
        except BaseException:
            starter.close()
            raise
        starter.close()
        time.sleep(_LOOK_AGAIN)


def up(wishes: LabWishes) -> tuple[dict[str, object], bool]:
    """See that a lab is up: its status, and whether it was so before.

    Raises `UsageError` where one is up that is not what was asked for, and what starting can raise.
    """
    deadline = time.monotonic() + _START_PATIENCE
    was_up = True
    while True:
        answer = status()
        if answer is not None:
            if wishes.are_met_by(_settings_of(answer)):
                return answer, was_up
            raise UsageError(
                "bring up a lab like that",
                f"one is up with {answer['cpus']} CPUs, {int(str(answer['memory'])) >> 20} MiB, "
                f"{answer['kernel']}",
                "run pyvmm lab down first",
            )
        was_up = False
        with _start_keeper("listen", wishes.settings()) as connection:
            if not _is_ready(connection, deadline):
                time.sleep(_LOOK_AGAIN)


def _is_ready(starter: socket.socket, deadline: float) -> bool:
    """Wait for a keeper's lab; False where somebody else brings it up, or it is just going down.

    Raises what starting can raise, and that it took too long.
    """
    starter.settimeout(max(1.0, deadline - time.monotonic()))
    try:
        frame = _one_frame(starter)
    except TimeoutError as error:
        raise LabError("bring up a lab", f"it took over {_START_PATIENCE:g} s") from error
    if frame is None:
        raise keeper_ended("bring up a lab")
    if frame.type == FrameType.FAILED:
        failure = failures.from_bytes(frame.payload)
        if not isinstance(failure, LabBusyError) or time.monotonic() > deadline:
            raise failure
        return False
    return True


def down() -> bool:
    """End the lab that is up; whether one was. When this returns its QEMU has ended."""
    connection = connect()
    if connection is None:
        return False
    with connection:
        connection.settimeout(_SHORT_PATIENCE)
        try:
            connection.sendall(Frame(FrameType.DOWN).encode())
            while connection.recv(4096):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            # It hangs. Its QEMU dies with it.
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            with suppress(ProcessLookupError):
                os.kill(struct.unpack("3i", credentials)[0], signal.SIGKILL)
    return True


def keeper_ended(attempt: str) -> PyvmmError:
    """The error for a connection that ended without a last word."""
    return LabError(
        attempt,
        "the process that keeps the lab has ended",
        f"what it said is in {run_folder() / _KEEPER_LOG}",
    )


def _start_keeper(mode: str, settings: LabSettings, directory: Path | None = None) -> socket.socket:
    import subprocess

    directory = directory or run_folder()
    started_in = str(working_directory())
    ours, theirs = socket.socketpair()
    log = os.open(
        directory / _KEEPER_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        # Its own session: the terminal's signals are ours to pass on.
        process = subprocess.Popen(
            [
                sys.executable, "-m", "pyvmm.lab.keeper",
                mode, str(directory), str(theirs.fileno()), settings.to_json(),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, STARTED_IN: started_in},
        )  # fmt: skip
        # Nobody waits for it: a lab that is up outlives us, one for a command ends after us.
        process.returncode = 0
    except OSError as error:
        ours.close()
        raise SystemCallError(
            "start the lab's keeper", error.errno or 0, error.strerror or str(error)
        ) from error
    finally:
        theirs.close()
        os.close(log)
    return ours


def _one_frame(connection: socket.socket) -> Frame | None:
    decoder = Decoder()
    while data := connection.recv(65536):
        for frame in decoder.feed(data):
            return frame
    return None
