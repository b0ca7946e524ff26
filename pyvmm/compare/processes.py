# SPDX-License-Identifier: MIT
"""Child processes of a comparison: what they write is kept, and what went wrong is told."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from pyvmm.errors import (
    ExitCode,
    HostLacksError,
    ImageError,
    NoPermissionError,
    PyvmmError,
    UsageError,
)
from pyvmm.qmp.child import Child

CONSOLE_LIMIT = 16 << 20
"""Bytes of a guest's console that are kept and compared; the rest is read and dropped."""
_ERROR_LIMIT = 8192
_LAST_WORDS = 5.0


class Transcript:
    """Console output of a guest: the first `CONSOLE_LIMIT` bytes, and the time of the first one."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self.first: float | None = None
        """Time at which the first byte arrived, in seconds of CLOCK_MONOTONIC."""

    def take(self, data: bytes) -> None:
        """More of it."""
        if self.first is None:
            self.first = time.monotonic()
        self._kept += data[: CONSOLE_LIMIT - len(self._kept)]

    @property
    def text(self) -> bytes:
        """All that is kept."""
        return bytes(self._kept)


class Errors:
    """The end of what a child wrote to standard error."""

    def __init__(self) -> None:
        self._tail = b""

    def take(self, data: bytes) -> None:
        """More of it."""
        self._tail = (self._tail + data)[-_ERROR_LIMIT:]

    @property
    def lines(self) -> list[str]:
        """Its last lines, without QEMU's warnings."""
        text = self._tail.decode("utf-8", "replace")
        return [line for line in text.splitlines() if line.strip() and "warning:" not in line]


@asynccontextmanager
async def listened_to(child: Child, said: Transcript, errors: Errors) -> AsyncIterator[None]:
    """Keep what `child` writes while the block runs, and what there still is when it is left.

    It has ended and is reaped afterwards, whatever happens.
    """
    failure: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child.pump, "stdout", said.take)
            nursery.start_soon(child.pump, "stderr", errors.take)
            try:
                yield
            except BaseException as error:  # noqa: BLE001 - raised again, without a group
                failure = error
            # Its pipes end with it; somebody else might still have them, so not for ever.
            await child.stop()
            nursery.cancel_scope.deadline = trio.current_time() + _LAST_WORDS
    finally:
        await child.end()
    if failure is not None:
        raise failure


def failure_of(attempt: str, exit_code: int, lines: list[str]) -> PyvmmError:
    """The error for a child that could not run the guest, in its own words."""
    said = lines[-1].removeprefix("pyvmm: ") if lines else f"it ended with {exit_code}"
    match exit_code:
        case ExitCode.USAGE:
            return UsageError(attempt, said)
        case ExitCode.BAD_IMAGE:
            return ImageError(attempt, said)
        case ExitCode.NO_PERMISSION:
            return NoPermissionError(attempt, said)
        case ExitCode.HOST_LACKS:
            return HostLacksError(attempt, said)
        case _:
            return RunFailedError(attempt, said)


class RunFailedError(PyvmmError):
    """A monitor could not run the guest; it was not the guest's doing."""

    exit_code = ExitCode.SYSTEM_CALL
