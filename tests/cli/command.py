# SPDX-License-Identifier: MIT
"""The command as its users run it: a process of its own, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PYVMM = (sys.executable, "-m", "pyvmm")

HANG = 240.0
"""Seconds after which something counts as hung; nothing here depends on being quick."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """Standard error, in lines."""
        return self.err.splitlines()


# Without what would make Python behave otherwise than at most of our users'.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    # xdist tells its workers the width of a terminal that they do not have.
    if not name.startswith("PYTHON") and name != "COLUMNS"
}


def pyvmm(
    *arguments: str | Path,
    prefix: Sequence[str] = (),
    given: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Outcome:
    """Run ``pyvmm`` to its end, `given` on its standard input (None: /dev/null).

    `prefix` is a command that runs it. Fails when it leaves a process behind.
    """
    process = subprocess.Popen(
        [*prefix, *PYVMM, *map(str, arguments)],
        stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env={**ENVIRONMENT, **(env or {})},
        start_new_session=True,
    )
    with ending(process):
        out, err = process.communicate(given, timeout=HANG)
    assert not session_members(process.pid), "it left processes behind"
    return Outcome(process.returncode, out, err.decode("utf-8", "replace"))


def start(
    *arguments: str | Path,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    preparation: Callable[[], None] | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``pyvmm``; see `ending`."""
    return subprocess.Popen(
        [*PYVMM, *map(str, arguments)],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={**ENVIRONMENT, **(env or {})},
        preexec_fn=preparation,  # noqa: PLW1509 - there are no threads here
    )


@contextmanager
def ending(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Make sure that `process` is gone and its pipes are closed after the block."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def finish(process: subprocess.Popen[bytes]) -> Outcome:
    """Wait for the end of a started process and take what it said meanwhile."""
    out, err = process.communicate(timeout=HANG)
    return Outcome(process.returncode, out or b"", (err or b"").decode("utf-8", "replace"))


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for `condition`."""
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def session_members(session: int) -> list[int]:
    """The processes of a session that still run (zombies do not)."""
    return [pid for pid, fields in _stats() if int(fields[3]) == session and fields[0] != "Z"]


def state(pid: int) -> str:
    """A process's state: R, S, T (stopped), Z, ...; "" when it is gone."""
    return next((fields[0] for other, fields in _stats() if other == pid), "")


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for `number`."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


def cpu_ticks(pid: int) -> int:
    """How much processor time a process has used, in clock ticks."""
    return next((int(f[11]) + int(f[12]) for other, f in _stats() if other == pid), 0)


def until_idle(pid: int) -> None:
    """Wait until a process has used next to no processor time for a second."""
    before = -100
    deadline = time.monotonic() + 2 * HANG
    while (now := cpu_ticks(pid)) - before > 3:
        assert time.monotonic() < deadline, "it is always busy"
        before = now
        time.sleep(1)


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Process ids with the fields of proc_pid_stat(5) from the state on."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "stat").read_text(errors="replace")
        except OSError:
            continue
        yield int(path.name), text.rpartition(")")[2].split()
