# SPDX-License-Identifier: MIT
"""A command on a terminal of its own, and the hands and eyes in front of it."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..cli.command import ENVIRONMENT, HANG, PYVMM, state, until


class Terminal:
    """A pseudo-terminal that a process has as its controlling terminal."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process: subprocess.Popen[bytes] | None = None

    def run(
        self,
        *arguments: str | Path,
        command: tuple[str, ...] = PYVMM,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start ``pyvmm`` in front of it."""
        slave = self.slave

        def take_terminal() -> None:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [*command, *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**ENVIRONMENT, **(env or {})},
            preexec_fn=take_terminal,  # noqa: PLW1509 - there are no threads here
        )

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.master, keys)

    def look(self, wait: float = 0.0) -> None:
        """Take what is on the screen."""
        while select.select([self.master], [], [], wait)[0]:
            try:
                self.seen += os.read(self.master, 1 << 16)
            except OSError:  # the last one on the other side has closed it
                return
            wait = 0.0

    def expect(self, text: bytes) -> None:
        """Wait until `text` shows up after what was expected before, and leave it behind."""
        deadline = time.monotonic() + HANG
        while text not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} never came; instead {self.seen!r}"
            assert self.process is not None
            ended = self.process.poll() is not None
            self.look(0.05)
            assert text in self.seen or not ended, f"it ended without {text!r}: {self.seen!r}"
        self.seen = self.seen.partition(text)[2]

    def wait(self) -> int:
        """Wait for the end of the command; its exit code."""
        assert self.process is not None
        deadline = time.monotonic() + HANG
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end; {self.seen!r}"
            self.look(0.02)
        self.look()
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command."""
        assert self.process is not None
        self.process.send_signal(number)

    def until_stopped(self) -> None:
        """Wait until the command is stopped."""
        assert self.process is not None
        pid = self.process.pid
        until(lambda: state(pid) == "T", "stopped")

    @property
    def settings(self) -> list[object]:
        """The terminal's settings."""
        return termios.tcgetattr(self.slave)

    @property
    def is_raw(self) -> bool:
        """Whether keys go through one by one, without echo or signals."""
        flags = termios.tcgetattr(self.slave)[3]
        return not flags & (termios.ECHO | termios.ICANON | termios.ISIG)

    def until_raw(self) -> None:
        """Wait for it."""
        until(lambda: self.is_raw, "a raw terminal")

    def assert_restored(self) -> None:
        """Whether every setting is as it was before."""
        assert self.settings == self.before

    def close(self) -> None:
        """End the command, if it is still there, and hang up."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)


@contextmanager
def terminal() -> Iterator[Terminal]:
    """A terminal, until the end of the block."""
    new = Terminal()
    try:
        yield new
    finally:
        new.close()
