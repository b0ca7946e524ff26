# SPDX-License-Identifier: MIT
"""A guest's console at the far end of ``pyvmm lab run -- pyvmm run ...``: asked by its shell."""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.places import HANG, PYVMM

_LISTEN = (
    b'dmesg -n 1; stty -echo; echo "listen""ing"; '
    b'while read -r line; do eval "$line"; echo "@@"$?"@@"; done\n'
)
"""A shell that reads commands without a prompt, an echo or an editor, and says their status."""
_LISTENING = re.compile(rb"listening\r?\n")
_ANSWER = re.compile(rb"@@(\d+)@@\r?\n")
_SHELL = re.compile(rb"/ # ")


class Console:
    """A run whose console is asked. Where what is expected does not come, the test fails with all
    that was said.
    """

    def __init__(
        self, arguments: Sequence[str], env: Mapping[str, str], cwd: Path, patience: float = HANG
    ) -> None:
        self._patience = patience
        self.said = b""
        """Everything that was said so far; `_read` of it has been expected."""
        self._read = 0
        self._run = subprocess.Popen(
            [PYVMM, "lab", "run", "--", PYVMM, "run", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=env, cwd=cwd, bufsize=0,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._run.poll() is None:
            self._run.kill()
        self._run.wait()
        for pipe in (self._run.stdin, self._run.stdout):
            if pipe is not None:
                pipe.close()

    def expect(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        """The first place behind what was expected before."""
        deadline = time.monotonic() + self._patience
        while True:
            found = pattern.search(self.said, self._read)
            if found is not None:
                self._read = found.end()
                return found
            if not self._take(deadline):
                raise AssertionError(f"{pattern.pattern!r} did not come:\n{self.text()}")

    def shell(self) -> None:
        """Wait for the shell's prompt, and have the shell be asked from then on."""
        self.expect(_SHELL)
        self.say(_LISTEN)
        # What is typed from here on is not echoed any more.
        self.expect(_LISTENING)
        assert self.ask("true") == ""

    def ask(self, command: str, code: int = 0) -> str:
        """What `command` prints; it has to end with `code`."""
        begin = self._read
        self.say(command.encode() + b"\n")
        answer = self.expect(_ANSWER)
        printed = self.said[begin : answer.start()].decode(errors="replace").replace("\r\n", "\n")
        assert int(answer[1]) == code, f"{command} ended with {int(answer[1])}:\n{printed}"
        return printed

    def say(self, line: bytes) -> None:
        """Type it."""
        assert self._run.stdin is not None
        self._run.stdin.write(line)

    def end(self) -> int:
        """The run's exit code, once it has ended."""
        deadline = time.monotonic() + self._patience
        while self._take(deadline):
            pass
        if time.monotonic() >= deadline:
            raise AssertionError(f"the run does not end:\n{self.text()}")
        return self._run.wait(self._patience)

    def text(self) -> str:
        """Everything that was said."""
        return self.said.decode(errors="replace").replace("\r\n", "\n")

    def _take(self, deadline: float) -> bool:
        """Wait for more; whether there is more."""
        assert self._run.stdout is not None
        pipe = self._run.stdout.fileno()
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        data = os.read(pipe, 1 << 16)
        self.said += data
        return bool(data)
