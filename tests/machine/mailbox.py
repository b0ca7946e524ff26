# SPDX-License-Identifier: MIT
"""The host's end of the page that a guest shares to talk (``guest/include/mailbox.h``)."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import trio

from pyvmm.machine.console.collector import Collector
from pyvmm.machine.guest_memory import GuestMemory
from tests.guest.building import defines

MAIL = defines("mailbox.h")
_MASK = (1 << 64) - 1
_WHERE = re.compile(rb"mailbox at 0x([0-9a-f]+)\n")


def pattern_at(gpa: int, seed: int) -> int:
    """What MAIL_FILL, and pattern_fill in the guests, write at `gpa`."""
    return (gpa ^ seed) * MAIL["MAIL_PATTERN"] & _MASK


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that the guest does."""
    while not condition():
        await trio.sleep(0.001)


async def said(console: Collector, text: str) -> re.Match[bytes]:
    """Wait until the guest has said what matches `text`."""
    pattern = re.compile(text.encode())
    await until(lambda: pattern.search(console.output) is not None)
    match = pattern.search(console.output)
    assert match is not None
    return match


class Mailbox:
    """Requests to the guest, and answers to the guest's. Results are signed."""

    def __init__(self, memory: GuestMemory, gpa: int) -> None:
        self._memory = memory
        self.gpa = gpa
        assert self._get(0) == MAIL["MAIL_MAGIC"]

    @classmethod
    async def of(cls, memory: GuestMemory, console: Collector) -> Mailbox:
        """The one that the guest prints."""
        match = await said(console, _WHERE.pattern.decode())
        return cls(memory, int(match[1], 16))

    def _get(self, offset: int) -> int:
        data = self._memory.read(self.gpa + offset, 8)
        assert data is not None, "the mailbox is not shared"
        return int.from_bytes(data, "little")

    def _put(self, offset: int, value: int) -> None:
        assert self._memory.write(self.gpa + offset, struct.pack("<Q", value & _MASK))

    def _is_open(self, channel: int) -> bool:
        return self._get(channel + MAIL["MAIL_REQUEST"]) != self._get(channel + MAIL["MAIL_ANSWER"])

    async def ask(self, command: str, *arguments: int) -> int:
        """Have the guest do ``MAIL_`` `command`."""
        channel = MAIL["MAIL_HOST_ASKS"]
        self._put(channel + MAIL["MAIL_COMMAND"], MAIL[f"MAIL_{command}"])
        for number, argument in enumerate(arguments):
            self._put(channel + MAIL["MAIL_ARGUMENTS"] + 8 * number, argument)
        self._put(channel + MAIL["MAIL_REQUEST"], self._get(channel + MAIL["MAIL_REQUEST"]) + 1)
        await until(lambda: not self._is_open(channel))
        result = self._get(channel + MAIL["MAIL_RESULT"])
        return result - (1 << 64) if result >> 63 else result

    async def asked(self, command: str) -> tuple[int, int]:
        """Wait for the guest to ask for ``MAIL_`` `command`: the first two arguments."""
        channel = MAIL["MAIL_GUEST_ASKS"]
        await until(lambda: self._is_open(channel))
        assert self._get(channel + MAIL["MAIL_COMMAND"]) == MAIL[f"MAIL_{command}"]
        arguments = channel + MAIL["MAIL_ARGUMENTS"]
        return self._get(arguments), self._get(arguments + 8)

    def answer(self, result: int) -> None:
        """Tell the guest what became of what it asked for."""
        channel = MAIL["MAIL_GUEST_ASKS"]
        self._put(channel + MAIL["MAIL_RESULT"], result)
        self._put(channel + MAIL["MAIL_ANSWER"], self._get(channel + MAIL["MAIL_REQUEST"]))
