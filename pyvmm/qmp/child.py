# SPDX-License-Identifier: MIT
"""A child process that never outlives us, waited for and read without blocking trio."""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import BinaryIO

import trio

from pyvmm.errors import HostLacksError, SystemCallError
from pyvmm.signal_names import signal_name

_PR_SET_PDEATHSIG = 1
_TERM_PATIENCE = 2.0


def _libc_prctl() -> Callable[[int, int], int]:
    prctl: Callable[[int, int], int] = ctypes.CDLL(None, use_errno=True).prctl
    return prctl


def _pipe(ours: ExitStack, its: ExitStack) -> tuple[BinaryIO, int]:
    """A pipe from a child: our end, and its end, each closed by a stack."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    its.callback(os.close, writing)
    return ours.enter_context(os.fdopen(reading, "rb")), writing


class Child:
    """A process started by `start`. Whoever starts it calls `end`, whatever happens.

    It is killed by the kernel when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG
    means the thread, not the process), so start it from one that lives as long as its owner: not
    from a worker thread, which is what `trio.lowlevel.open_process` would do.
    """

    def __init__(self, process: subprocess.Popen[bytes], command: Sequence[str]) -> None:
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._waiting = trio.Lock()
        self.command = shlex.join(command)
        self.usage: resource.struct_rusage | None = None
        """Resources that it used (getrusage(2)), once it has ended."""

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        pass_fds: Sequence[int] = (),
        stdin: int | None = None,
        stdout: int | None = None,
        *,
        own_session: bool = False,
        core_files: bool = False,
    ) -> Child:
        """Start `command` with descriptors of ours as its standard input and output.

        None: its input is empty, its output a pipe to us; errors always are. It writes no core
        file, unless it may be made to (`core_files`). With `own_session` a terminal's signals are
        not for it. Raises `HostLacksError` where there is no such program, `SystemCallError` where
        the kernel refuses.
        """
        prctl = _libc_prctl()
        parent = os.getpid()
        most_core = resource.getrlimit(resource.RLIMIT_CORE)[1] if core_files else 0

        def die_with_parent() -> None:
            # Between fork and exec: nothing but system calls.
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, most_core))
            if os.getppid() != parent:
                os._exit(1)

        try:
            with ExitStack() as ours, ExitStack() as its:
                # Made here: Popen of CPython before 3.11.4 leaves one open if the next one fails.
                output, to_output = (None, stdout) if stdout is not None else _pipe(ours, its)
                errors, to_errors = _pipe(ours, its)
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL if stdin is None else stdin,
                    stdout=to_output,
                    stderr=to_errors,
                    pass_fds=pass_fds,
                    start_new_session=own_session,
                    preexec_fn=die_with_parent,  # noqa: PLW1509 - no lock is taken in it
                )
                process.stdout = output
                process.stderr = errors
                ours.pop_all()
        except FileNotFoundError as error:
            raise HostLacksError(
                f"start {command[0]}", "it is not installed", "install it (Debian: qemu-system-x86)"
            ) from error
        except OSError as error:
            raise SystemCallError(
                f"start {command[0]}", error.errno or 0, error.strerror or str(error)
            ) from error
        try:
            return cls(process, command)
        except OSError as error:
            process.kill()
            process.communicate()
            raise SystemCallError(
                f"watch {command[0]}", error.errno or 0, error.strerror or str(error)
            ) from error

    @property
    def pid(self) -> int:
        """Its process number."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """As `subprocess` has it: the exit status, or minus the signal; None while it runs."""
        process = self._process
        if process.returncode is None:
            # Instead of Popen.poll, which does not keep what it took.
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                self.usage = usage
                process.returncode = os.waitstatus_to_exitcode(status)
        return process.returncode

    def ending(self) -> str:
        """Describe in words how it ended."""
        code = self.returncode
        if code is None:
            return "it still runs"
        if code < 0:
            return f"it was killed by {signal_name(-code)}"
        return f"it ended with exit code {code}"

    async def wait(self) -> int:
        """Wait until it has ended; `returncode`. Any number of tasks may wait."""
        while (code := self.returncode) is None:
            async with self._waiting:  # Only one task at a time may wait for a descriptor.
                if self.returncode is None:
                    await trio.lowlevel.wait_readable(self._pidfd)
        return code

    async def pump(self, which: str, take: Callable[[bytes], object]) -> None:
        """Hand what it writes to "stdout" or "stderr" to `take`, until nobody has that open.

        Raises `SystemCallError` where the kernel has no descriptor left.
        """
        pipe = self._process.stdout if which == "stdout" else self._process.stderr
        assert pipe is not None
        try:
            reading = os.dup(pipe.fileno())
        except OSError as error:
            raise SystemCallError(
                f"read {which} of {self.command.partition(' ')[0]}",
                error.errno or 0,
                error.strerror or str(error),
            ) from error
        async with trio.lowlevel.FdStream(reading) as stream:
            async for data in stream:
                take(bytes(data))

    def kill(self) -> None:
        """End it at once."""
        if self.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """End it, politely first; what it wrote can still be read. Bounded, not cancellable."""
        with trio.CancelScope(shield=True):
            if self.returncode is None:
                self._process.terminate()
                with trio.move_on_after(_TERM_PATIENCE):
                    await self.wait()
            self.kill()
            await self.wait()

    async def end(self) -> None:
        """`stop`, and give everything back; it is reaped when this returns."""
        with trio.CancelScope(shield=True):
            await self.stop()
            for pipe in (self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd = -1
