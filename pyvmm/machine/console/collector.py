# SPDX-License-Identifier: MIT
"""A console that keeps what the guest says in memory and feeds it what it is given."""

from __future__ import annotations

import threading

import trio

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
        self._changed: trio.Event | None = None

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
                self._tell_tasks()
        finally:
            with self._more:
                self._ended = True
                self._more.notify_all()
            self._tell_tasks()

    def _tell_tasks(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    @property
    def output(self) -> bytes:
        """All that the guest has said so far."""
        with self._more:
            return bytes(self._output)

    async def said(self, text: bytes) -> bool:
        """As `wait_for`, for tasks of the machine's own loop."""
        searched = 0
        while (found := self._output.find(text, searched)) < 0 and not self._ended:
            searched = max(0, len(self._output) - len(text) + 1)
            await self._change()
        return found >= 0

    async def ended(self) -> None:
        """Wait, in a task of the machine's own loop, until the output has ended."""
        while not self._ended:
            await self._change()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def wait_for(self, text: bytes, timeout: float | None = None) -> bool:
        """Block until `text` is in the output; False when the output ends or time runs out first.

        `timeout` in seconds. Not for the trio thread.
        """
        with self._more:
            self._more.wait_for(lambda: text in self._output or self._ended, timeout)
            return text in self._output
