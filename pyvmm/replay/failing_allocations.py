# SPDX-License-Identifier: MIT
"""Allocations of the kernel that fail on demand, for one thread (fault-injection.rst).

The thread's ``fail-nth`` lets so many allocations pass and has the next one fail; from there on its
``make-it-fail``, with failslab at 100 percent, has all others fail too. One failure alone would do
little: the xarray, for one, tries again with a lock dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from pyvmm.errors import HostLacksError
from pyvmm.hosts.owner import Owner
from pyvmm.replay.debugfs import open_folder

_SETTINGS = {
    "ignore-gfp-wait": b"N",  # those that may sleep fail, too
    "task-filter": b"Y",
    "probability": b"100",
    "interval": b"1",
    "space": b"0",
    "times": b"-1",
    "verbose": b"0",
}
_LONGEST = 64


@dataclass
class Countdown:
    """Countdown to the first allocation that fails; `reached` is known after the block."""

    reached: bool = False


class FailingAllocations(Owner):
    """failslab of this machine, for one user at a time; set back to what it was by `close`.

    Other threads' allocations do not fail.
    """

    def __init__(self) -> None:
        """Raises `HostLacksError` where the kernel was built without it, or without root."""
        self._before: dict[str, bytes] = {}
        with ExitStack() as stack:
            folder = self._folder = open_folder("failslab")
            stack.callback(self.close)
            try:
                for name, value in _SETTINGS.items():
                    self._before[name] = _exchange(folder, name, value)
                os.close(_open_of_thread("fail-nth"))
            except OSError as error:
                raise HostLacksError(
                    "have allocations fail", error.strerror or str(error), "use the lab"
                ) from error
            stack.pop_all()

    def close(self) -> None:
        """Set failslab back, all of it whatever becomes of a part. Raises `OSError`."""
        folder, self._folder = self._folder, -1
        if folder < 0:
            return
        with ExitStack() as stack:
            stack.callback(os.close, folder)
            for name, value in self._before.items():
                stack.callback(_exchange, folder, name, value)

    @contextmanager
    def after(self, passing: int, failing: int = -1) -> Iterator[Countdown]:
        """Let `passing` allocations of this thread pass, and have `failing` in the block fail.

        -1: all others. Another number is for one thread at a time.
        `Countdown.reached` tells afterwards whether there was one more than that.
        """
        countdown = Countdown()
        with ExitStack() as stack:
            nth = _open_of_thread("fail-nth")
            stack.callback(os.close, nth)
            always = _open_of_thread("make-it-fail")
            stack.callback(os.close, always)
            _exchange(self._folder, "times", b"%d" % failing)
            # In this order: while it counts, the other one has no effect.
            os.pwrite(nth, b"%d" % (passing + 1), 0)
            os.pwrite(always, b"1", 0)
            try:
                yield countdown
            finally:
                os.pwrite(always, b"0", 0)
                countdown.reached = int(os.pread(nth, _LONGEST, 0)) == 0
                os.pwrite(nth, b"0", 0)


def _open_of_thread(name: str) -> int:
    return os.open(f"/proc/thread-self/{name}", os.O_RDWR | os.O_CLOEXEC)


def _exchange(folder: int, name: str, value: bytes) -> bytes:
    """Write a setting; the one before. debugfs cannot seek in them, hence two descriptors."""
    before, after = (
        os.open(name, mode | os.O_CLOEXEC, dir_fd=folder) for mode in (os.O_RDONLY, os.O_WRONLY)
    )
    try:
        was = os.read(before, _LONGEST).strip()
        os.write(after, value)
    finally:
        os.close(before)
        os.close(after)
    return was
