# SPDX-License-Identifier: MIT
"""A Linux guest's console: marks in what it says, and the answer of its disk benchmark."""

from __future__ import annotations

import json
import os
import selectors
import time
from collections.abc import Sequence
from typing import IO

from benchmarks.figures import Sample
from benchmarks.measure import CannotRunError

_DISK = {
    "write_mib": "write_mib_per_s",
    "read_mib": "read_mib_per_s",
    "depth_1": "random_1_per_s",
    "depth_32": "random_32_per_s",
}
"""Figures by the names that diskbench has for them."""
_MONITOR_GONE = "no monitor has a virtual machine"


class Console:
    """What a guest says, and when."""

    def __init__(self, pipe: IO[bytes], patience: float) -> None:
        self._pipe = pipe
        self._deadline = time.monotonic() + patience
        self._said = b""

    def wait_for(self, words: bytes) -> float:
        """The time (`time.perf_counter`) at which `words` have come. Raises `CannotRunError`."""
        while words not in self._said:
            if not self._read():
                raise CannotRunError(f"the guest ended before it said {words!r}{self._last()}")
        return time.perf_counter()

    def wait_for_line(self, line: bytes) -> float:
        """As `wait_for`, of a whole line: the kernel repeats its command line, which has it too."""
        return self.wait_for(b"\n" + line + b"\r\n")

    def wait_for_end(self) -> float:
        """The time at which nothing more can come. Raises `CannotRunError`."""
        while self._read():
            pass
        return time.perf_counter()

    def disk(self) -> Sample:
        """Figures of diskbench's line. Raises `CannotRunError`."""
        for line in self._said.splitlines():
            if line.startswith(b"{"):
                return disk_figures(line)
        raise CannotRunError(f"the guest has no figures of its disk{self._last()}")

    def _read(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            if not selector.select(max(0.0, self._deadline - time.monotonic())):
                raise CannotRunError(f"the guest takes too long{self._last()}")
        data = os.read(self._pipe.fileno(), 1 << 16)
        self._said += data
        return bool(data)

    def _last(self) -> str:
        lines = self._said.decode(errors="replace").split("\n")
        return "; last: " + " | ".join(line.strip() for line in lines[-4:] if line.strip())


def disk_figures(line: bytes) -> Sample:
    """Figures of one line of diskbench's. Raises `CannotRunError`."""
    try:
        answer = json.loads(line)
        return {figure: float(answer[name]) for name, figure in _DISK.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise CannotRunError(f"no figures of a disk: {line!r}") from error


def monitor_figures(answer: str, exits: Sequence[str]) -> Sample:
    """Figures of a monitor that was looked at: ``peak KIB``, and a line ``NAME COUNT`` per exit.

    Raises `CannotRunError` where one of `exits`, or the monitor itself, is not among them.
    """
    rows = [line.split() for line in answer.splitlines()]
    found = {row[0]: row[1] for row in rows if len(row) > 1}
    if "peak" not in found:
        raise CannotRunError(_MONITOR_GONE)
    missing = [name for name in exits if name not in found]
    if missing:
        raise CannotRunError(f"the lab's KVM does not count {missing[0]}")
    return {
        "rss_mib": int(found["peak"]) / 1024,
        **{name: int(found[name]) for name in exits},
    }
