# SPDX-License-Identifier: MIT
"""A machine's console, as its owner reads from it and writes to it."""

from __future__ import annotations

from pyvmm.errors import UsageError
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.console.port import ConsolePort


class Console:
    """Serial console of a guest.

    Its owner reads it, unless an attachment does: then that is who gets what the guest says. A
    guest whose output nobody takes waits once `OUTPUT_LIMIT` bytes (1 MiB) have piled up.
    """

    def __init__(self, port: ConsolePort, attached: object | None) -> None:
        """`attached`: who serves the console; None: the owner."""
        self._port = port
        self._collector = attached if isinstance(attached, Collector) else None
        self._is_served = attached is not None
        self._kept = bytearray()

    # -- output --

    async def receive(self) -> bytes:
        """Take what the guest has said, at least a byte; b"" after the end. One reader at a time.

        When it is cancelled, nothing has been taken. Raises `UsageError` where an attachment
        serves the console.
        """
        self._refuse_if_served("read a machine's console")
        return await self._port.receive()

    async def wait_for(self, text: bytes) -> bool:
        """Take what the guest says until `text` is in `output`; False where it ends before.

        Raises `UsageError` where another attachment than a `Collector` serves the console.
        """
        if self._collector is not None:
            return await self._collector.said(text)
        searched = 0
        while (found := self._kept.find(text, searched)) < 0:
            searched = max(0, len(self._kept) - len(text) + 1)
            data = await self.receive()
            if not data:
                break
            self._kept += data
        return found >= 0

    async def read_all(self) -> bytes:
        """Take what the guest says until it ends; return `output`. Raises as `wait_for` does."""
        if self._collector is not None:
            await self._collector.ended()
        else:
            while data := await self.receive():
                self._kept += data
        return self.output

    @property
    def output(self) -> bytes:
        """All that `wait_for` and `read_all` have taken, or a `Collector` has."""
        return bytes(self._kept) if self._collector is None else self._collector.output

    @property
    def total(self) -> int:
        """Count of the bytes that the guest has said so far."""
        return self._port.total

    @property
    def unread(self) -> int:
        """Count of the bytes of them that nobody has taken."""
        return self._port.unread

    # -- input --

    async def send(self, data: bytes) -> None:
        """Type `data`; waits while much is queued that the guest has not taken (64 KiB)."""
        await self._port.send(data)

    def end_input(self) -> None:
        """End the input, as Ctrl-D on an empty line does: the guest sees the carrier drop."""
        self._port.end_input()

    def _refuse_if_served(self, attempt: str) -> None:
        if self._is_served:
            raise UsageError(
                attempt,
                "an attachment serves it",
                "make the machine without one, or with a Collector",
            )
