# SPDX-License-Identifier: MIT
"""Children of a build: each a process group that does not outlive us.

They inherit the cache's lock, so that a build whose parent was killed still keeps others out until
it has noticed (its output goes nowhere, and the next line it writes ends it).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pyvmm.errors import HostLacksError
from pyvmm.held_signals import held_signals
from pyvmm.lab.kernel.failures import KernelBuildError, system_call_error

_PATIENCE = 5.0
_TAIL = 40
_TELLING = re.compile(
    r"rror: |\bE: |No space|undefined reference|syntax error|No rule to make target"
)
"""Lines in which compiler, linker, Kconfig, make, and apt say what is wrong."""
_PATH_AND_BACK = re.compile(r"^[^\s:]+/\.\./[^\s:]+(?=:\d+:)")
"""Beginning of a compiler's line: KVM's files of all architectures are named by way of x86's."""
_KEPT_OUT = (
    "MAKE", "MFLAGS", "KBUILD", "KCONFIG", "KCFLAGS", "KCPPFLAGS", "KAFLAGS", "ARCH",
    "CROSS_COMPILE", "LLVM", "LC_", "GREP",
)  # fmt: skip
"""Beginnings of names in the environment that would change a build, or what tools say."""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without what would change a kernel's build or what tools say, and with `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_KEPT_OUT)}
    return {**kept, "LANGUAGE": "C", "LC_ALL": "C", **(extra or {})}


def close(child: subprocess.Popen[bytes]) -> None:
    """End `child` and its group if it has not ended, and close its pipes."""
    if child.poll() is None:
        end_group(child)
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End `process` and its group: politely, and then not."""
    for number, patience in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@dataclass
class Children:
    """Runs commands with the lock descriptor `lock`; their output goes to the file `log`."""

    lock: int
    log: Path
    environment: dict[str, str] = field(default_factory=clean_environment)

    def start(self, command: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """A child, leader of its own process group. Raises `HostLacksError`, `SystemCallError`."""
        try:
            return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
                command,
                env=self.environment,
                pass_fds=(self.lock,),
                process_group=0,
                **{"stdin": subprocess.DEVNULL, **options},
            )
        except FileNotFoundError as error:
            raise HostLacksError(
                f"run {command[0]}", "it is not installed", "install it"
            ) from error
        except OSError as error:
            raise system_call_error(f"run {command[0]}", error) from error

    def run(
        self,
        command: Sequence[str],
        attempt: str,
        *,
        directory: Path | None = None,
        on_line: Callable[[str], None] = lambda _: None,
        while_waiting: Callable[[], None] | None = None,
    ) -> list[str]:
        """Run to the end, line by line; the last lines. Raises `KernelBuildError` if it fails.

        `while_waiting` is called a few times a second instead, for a child that says little.
        """
        tail: deque[str] = deque(maxlen=_TAIL)
        first = ""
        with self.open_log() as log:
            child = None
            try:
                with held_signals():
                    child = self.start(
                        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                    )
                assert child.stdout is not None
                lines: Iterable[bytes] = child.stdout
                if while_waiting is not None:
                    lines = _wait_with(child, while_waiting).splitlines(keepends=True)
                for raw in lines:
                    _write(log, raw)
                    line = raw.decode("utf-8", "replace").rstrip()
                    tail.append(line)
                    if not first and _TELLING.search(line):
                        first = line
                    on_line(line)
                status = child.wait()
            finally:
                if child is not None:
                    close(child)
        if status != 0:
            # Others that make has started say much after the one that has failed.
            said = [first, *tail] if first else list(tail)
            raise KernelBuildError(attempt, self.reason(command[0], status, said))
        return list(tail)

    def reason(self, program: str, status: int, tail: list[str]) -> str:
        """Explain in one line why a command failed, by the most telling of its last lines."""
        ended = f"signal {-status}" if status < 0 else f"status {status}"
        lines = [line.strip() for line in tail if line.strip()]
        telling = [line for line in lines if _TELLING.search(line)]
        if not telling:
            # make's own "*** ... Error 1" says less than what came before it.
            first = next((at for at, line in enumerate(lines) if "***" in line), len(lines))
            telling = lines[max(first - 1, 0) :][:1]
        said = f": {_PATH_AND_BACK.sub(_straight, telling[0])}" if telling else ""
        return f"{program} ended with {ended}{said} (all of it is in {self.log})"

    def log_size(self) -> int:
        """In bytes; 0 where there is no log yet."""
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def log_lines(self, begin: int) -> list[str]:
        """The log's last lines, from the byte `begin` on."""
        try:
            with self.log.open("rb") as log:
                log.seek(begin)
                return log.read().decode("utf-8", "replace").splitlines()[-_TAIL:]
        except OSError:
            return []

    def open_log(self) -> BinaryIO:
        """The log, to append to. Raises `SystemCallError`."""
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            return self.log.open("ab")
        except OSError as error:
            raise system_call_error(f"write {self.log}", error) from error


def _straight(path: re.Match[str]) -> str:
    return os.path.normpath(path[0])


def _write(log: BinaryIO, data: bytes) -> None:
    # A full disk fails the command itself, with a better message than this file could give.
    with suppress(OSError):
        log.write(data)
        log.flush()


def _wait_with(child: subprocess.Popen[bytes], tick: Callable[[], None]) -> bytes:
    while True:
        try:
            return child.communicate(timeout=0.2)[0]
        except subprocess.TimeoutExpired:
            tick()
