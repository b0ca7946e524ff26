# SPDX-License-Identifier: MIT
"""Timed runs: a whole process from its start to its end, with nobody looking into it."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from pyvmm.compare import launcher, qemu_command
from pyvmm.compare.guest_files import GuestFiles, path_of
from pyvmm.compare.observations import TimedRun
from pyvmm.compare.processes import Errors, RunFailedError, Transcript, failure_of, listened_to
from pyvmm.compare.subjects import PyvmmSubject, QemuSubject, Subject
from pyvmm.errors import GUEST_STATUS_MAX, ExitCode
from pyvmm.qmp.child import Child

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_REPORT_BYTES = 4096
_GUEST_ENDINGS = frozenset(range(GUEST_STATUS_MAX + 1)) | {
    ExitCode.GUEST_CRASHED,
    ExitCode.GUEST_PANICKED,
    ExitCode.MEMORY_REFUSED,
    ExitCode.UNHANDLED_EXIT,
    ExitCode.GUEST_RESET,
}
"""Exit codes of ``pyvmm run`` that the guest caused."""


def pyvmm_command(subject: PyvmmSubject, files: GuestFiles) -> list[str]:
    """``pyvmm run`` with this guest."""
    request = files.request
    command = [
        sys.executable, "-P", "-m", "pyvmm", "run", path_of(files.image),
        "--host", subject.host.value, "--memory", f"{request.memory}B",
        "--cpus", str(request.cpus), f"--append={os.fsdecode(request.command_line)}",
    ]  # fmt: skip
    if files.initrd is not None:
        command += ["--initrd", path_of(files.initrd)]
    return command


async def timed_run(subject: Subject, files: GuestFiles, number: int) -> TimedRun:
    """Run it once, as round `number`.

    Raises `RunFailedError` or another `PyvmmError` where the monitor fails, and where the guest
    does not end in time, though it did when it was inspected.
    """
    if isinstance(subject, PyvmmSubject):
        command = pyvmm_command(subject, files)
    else:
        command = qemu_command.timed(subject, files.request, path_of(files.image), _initrd(files))
    said = Transcript()
    with files.standard_input() as stdin:
        done = await launched(command, files.inherited, stdin, files.request.timeout, said)
    attempt = f"run {files.request.name} under {subject.name}"
    if done.is_overdue:
        cause = f"round {number} was not over after {files.request.timeout:g} s"
        raise RunFailedError(attempt, cause, "give a longer --timeout")
    cost = done.cost
    if cost is None:
        raise failure_of(attempt, done.returncode, done.lines)
    _check(attempt, subject, cost.exit_code, done.lines)
    return TimedRun(
        subject=subject,
        round=number,
        first_byte=None if said.first is None else said.first - cost.started,
        total=cost.ended - cost.started,
        user=cost.user,
        system=cost.system,
        peak_rss=cost.peak_rss,
        exit_code=cost.exit_code,
        console=said.text,
    )


def _initrd(files: GuestFiles) -> str | None:
    return None if files.initrd is None else path_of(files.initrd)


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of a process: seconds (`started` and `ended` of CLOCK_MONOTONIC), bytes at most."""

    started: float
    ended: float
    exit_code: int
    user: float
    system: float
    peak_rss: int


@dataclass(frozen=True, slots=True)
class Launched:
    """End of a process; `cost` is None where the launcher could not tell it, and `returncode` its.

    `lines` are the last ones of standard error.
    """

    cost: Cost | None
    returncode: int
    is_overdue: bool
    lines: list[str]


async def launched(
    command: Sequence[str], inherited: Sequence[int], stdin: int, timeout: float, said: Transcript
) -> Launched:
    """Run `command` by the launcher for `timeout` seconds at most; `said` gets what it writes."""
    errors = Errors()
    with _pipe() as (reading, writing):
        launch = [sys.executable, "-I", "-S", str(Path(launcher.__file__)), str(writing), *command]
        child = Child.start(launch, (*inherited, writing), stdin)
        async with listened_to(child, said, errors):
            with trio.move_on_after(timeout) as limit:
                await child.wait()
        told = os.read(reading, _REPORT_BYTES)
    return Launched(_cost(told), child.returncode or 0, limit.cancelled_caught, errors.lines)


def _cost(told: bytes) -> Cost | None:
    """Parse the cost that the launcher told; None where it told nothing."""
    if not told.endswith(b"\n"):
        return None
    values = json.loads(told)
    return Cost(
        float(values["started"]),
        min(float(values["ended"]), time.monotonic()),
        os.waitstatus_to_exitcode(int(values["status"])),
        float(values["user"]),
        float(values["system"]),
        int(values["max_rss"]),
    )


def _check(attempt: str, subject: Subject, exit_code: int, lines: list[str]) -> None:
    """Raise where the monitor failed rather than the guest."""
    if isinstance(subject, QemuSubject):
        # Its own failures end it with 1 as status 0 does, but come with a message.
        failed = exit_code < 0 or (exit_code == 1 and bool(lines))
    else:
        failed = exit_code not in _GUEST_ENDINGS
    if failed:
        raise failure_of(attempt, exit_code, lines)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """(read, write), of which reading does not wait."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(reading, False)
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)
