# SPDX-License-Identifier: MIT
"""A console that keeps what the guest says in memory and feeds it what it is given."""

from __future__ import annotations

import threading

from pyvmm.machine.console.port import ConsolePort


class Collector:
    """An `Attachment` for programs: all output in `output`, input sent ahead from `given`.

    `output` and `wait_for` may be used from any thread. Output is kept without bound: it is the
    caller who knows how much a guest may say.
    """

    def __init__(self, given: bytes | None = None) -> None:
        self._given = given
        self._output = bytearray()
        self._more = threading.Condition(threading.Lock())
        self._ended = False

    async def __call__(self, port: ConsolePort) -> None:
        """Serve the console."""
        try:
            if self._given is not None:
                await port.send(self._given)
                port.end_input()
            while data := await port.receive():
                with self._more:
                    self._output += data
                    self._more.notify_all()
        finally:
            with self._more:
                self._ended = True
                self._more.notify_all()

    @property
    def output(self) -> bytes:
        """All that the guest has said so far."""
        with self._more:
            return bytes(self._output)

    def wait_for(self, text: bytes, timeout: float | None = None) -> bool:
        """Block until `text` is in the output; False when the output ends or time runs out first.

        `timeout` in seconds. Not for the trio thread.
        """
        with self._more:
            self._more.wait_for(lambda: text in self._output or self._ended, timeout)
            return text in self._output
