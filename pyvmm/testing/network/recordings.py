# SPDX-License-Identifier: MIT
"""Capture of a network's frames, from the test's side."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pyvmm.errors import InternalError, PyvmmError, SystemCallError, UsageError
from pyvmm.hosts.owner import Owner
from pyvmm.machine.console.output_file import take_alone
from pyvmm.testing.failures import is_told
from pyvmm.testing.network.messages import (
    Answer,
    Captured,
    StartCapture,
    Started,
    StopCapture,
)

__tracebackhide__ = is_told


MOST = 64 << 20
"""Bytes of frames that are kept of a network, in case its test fails."""


class Capture:
    """A capture that goes on until `stop`, or the end of the ``with`` block, or of the network."""

    def __init__(self, ask: Callable[..., Answer], file: int, name: str, limit: int = 0) -> None:
        """Begin it. `file`, which stays the caller's, is called `name` in messages."""
        self._ask = ask
        self._name = name
        self._captured: Captured | None = None
        answer = ask(StartCapture(limit), file)
        if not isinstance(answer, Started):
            raise InternalError(f"capture to {name}", f"the answer is {answer}")
        self._number = answer.number

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        failure: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if failure is None:
            self.stop()
            return
        with suppress(PyvmmError):
            self.stop()

    def stop(self) -> int:
        """End it, once: all frames up to now are in the file then. How many these are.

        Raises `SystemCallError` where the file could not be written, or frames came too fast.
        """
        if self._captured is None:
            answer = self._ask(StopCapture(self._number))
            if not isinstance(answer, Captured):
                raise InternalError(f"capture to {self._name}", f"the answer is {answer}")
            self._captured = answer
            attempt = f"capture to {self._name}"
            if answer.trouble:
                raise SystemCallError(attempt, 0, f"after {answer.frames} frames: {answer.trouble}")
            if answer.lost:
                cause = f"{answer.lost} frames came faster than they could be written"
                raise SystemCallError(attempt, 0, cause)
        return self._captured.frames


class Recording(Owner):
    """All frames of a network, for a test that fails: a file without a name, up to `MOST` bytes."""

    def __init__(self) -> None:
        """Make the file. Raises `OSError`."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._capture: Capture | None = None

    def begin(self, ask: Callable[..., Answer]) -> None:
        """Begin the capture. Raises as that does."""
        self._capture = Capture(ask, self._file.fileno(), "the test's artifacts", MOST)

    def stop(self) -> None:
        """End the capture, once. Raises as `Capture.stop`."""
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.stop()

    def save(self, path: Path) -> None:
        """End the capture, and copy what it has to a new file. Raises as `stop`, and `OSError`."""
        try:
            self.stop()
        finally:
            self._file.seek(0)
            with path.open("xb") as copy:
                shutil.copyfileobj(self._file, copy)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def open_file(path: str | os.PathLike[str]) -> int:
    """Open a file for a capture, empty; the descriptor is the caller's.

    Raises `UsageError` for what is no regular file, or another capture's, `SystemCallError`.
    """
    attempt = f"capture to {os.fspath(path)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        file = os.open(path, flags, 0o666)
    except OSError as error:
        raise SystemCallError(attempt, error.errno or 0, error.strerror or str(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise UsageError(attempt, "it is no regular file")
        take_alone(file, attempt)
        os.ftruncate(file, 0)
    except BaseException:
        os.close(file)
        raise
    return file
