# SPDX-License-Identifier: MIT
"""Processes that boot guests, from the side of who has them do it: started, asked, ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from types import TracebackType
from typing import IO

import trio

from pyvmm.errors import PyvmmError
from pyvmm.signal_names import signal_name
from pyvmm.testing.matrix.frames import receive_result, send_request
from pyvmm.testing.matrix.jobs import Job, Request, missing
from pyvmm.testing.matrix.results import BootResult
from pyvmm.visible import visible

PATIENCE = 60.0
"""Seconds beyond a boot's own time limit that its process gets before it is taken for hung."""
_TO_END = 10.0
"""Seconds that a process gets to put away what it has (a QEMU, say) once its input has ended."""
_SAID = 300
_PATHS = "import sys, json; sys.path[:] = json.loads(sys.argv.pop(1)); "
_BOOTS = _PATHS + "from pyvmm.testing.matrix.boot_process import main; main()"
_PYVMM = _PATHS + "from pyvmm.cli.main import process; sys.exit(process())"


class ProcessLostError(PyvmmError):
    """A process that boots guests ended, or hung: nothing is known of the guest."""


def boot_command() -> list[str]:
    """Command line of a process that boots guests, and finds modules where this one does."""
    return [sys.executable, "-c", _BOOTS, json.dumps(sys.path)]


def lab_command() -> list[str]:
    """The same process in the lab."""
    pyvmm = [sys.executable, "-c", _PYVMM, json.dumps(sys.path)]
    return [*pyvmm, "lab", "run", "--", *boot_command()]


class BootProcess:
    """A process that boots guests; a context manager, in trio. It starts with the first boot.

    `patience` is in seconds, beyond each boot's time limit. After a `ProcessLostError` the next
    boot has a new process.
    """

    def __init__(self, command: list[str], patience: float = PATIENCE) -> None:
        self._command = command
        self._patience = patience
        self._process: trio.Process | None = None
        self._said: IO[bytes] | None = None
        self._there: dict[str, None] = {}

    async def __aenter__(self) -> BootProcess:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end()

    async def boot(self, job: Job, contents: dict[str, bytes]) -> BootResult:
        """Boot a guest; `contents` has its files by digest. Raises `ProcessLostError`."""
        try:
            process = self._process or await self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            limit = job.boot.image.timeout + self._patience
            with trio.move_on_after(limit):
                files = {digest: contents[digest] for digest in missing(job, self._there)}
                await send_request(process.stdin, Request(job, files))
                self._there |= dict.fromkeys(files)
                result = await receive_result(process.stdout)
                if result.key != job.boot.key:
                    raise ValueError("it is another boot's")
                return result
        except OSError as error:
            await self._end(at_once=True)
            cause = f"its process could not be started: {error.strerror or error}"
        except (EOFError, trio.BrokenResourceError):
            cause = await self._end()
        except ValueError as error:
            await self._end(at_once=True)
            cause = f"its process answered with what is no result ({visible(str(error))[:_SAID]})"
        else:
            await self._end(at_once=True)
            cause = f"its process has not answered for {limit:g} s"
        raise ProcessLostError(f"boot {job.boot.key}", cause)

    async def _start(self) -> trio.Process:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `_end`
        self._process = await trio.lowlevel.open_process(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            # Ctrl-C is for who started it: that one ends it.
            process_group=0,
        )
        return self._process

    def _last_line(self) -> str:
        assert self._said is not None
        size = self._said.seek(0, 2)
        self._said.seek(max(0, size - 4096))
        lines = self._said.read().decode("utf-8", "backslashreplace").split("\n")
        return visible(next((line for line in reversed(lines) if line.strip()), "")[:_SAID])

    async def _end(self, *, at_once: bool = False) -> str:
        """End the process, shielded: with its input it ends by itself, and else by force.

        Returns how it ended, in words.
        """
        process, self._process = self._process, None
        self._there.clear()
        how = ""
        try:
            if process is not None:
                with trio.CancelScope(shield=True):
                    how = await _ended(process, 0 if at_once else _TO_END)
                last = self._last_line()
                how = f"{how}: {last}" if last else how
        finally:
            said, self._said = self._said, None
            if said is not None:
                said.close()
        return how


async def _ended(process: trio.Process, patience: float) -> str:
    """End a process and its group; how it did, in words, where it did by itself."""
    assert process.stdin is not None
    assert process.stdout is not None
    await process.stdin.aclose()
    is_over = await _is_over(process.pid, patience)
    # Whatever it started is in its group, and ends with it. The group's number is its own as long
    # as nobody has waited for the process: after that another group may have it.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    code = await process.wait()
    await process.stdout.aclose()
    if not is_over:
        return "its process closed its output"
    return (
        f"its process was ended by {signal_name(-code)}"
        if code < 0
        else (f"its process ended with {code}")
    )


async def _is_over(pid: int, patience: float) -> bool:
    """Wait until a child has ended, without taking its status; False where it goes on."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        with trio.move_on_after(patience):
            await trio.lowlevel.wait_readable(descriptor)
            return True
        return False
    finally:
        os.close(descriptor)
