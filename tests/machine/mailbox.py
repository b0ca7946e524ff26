# SPDX-License-Identifier: MIT
"""A guest that is told what to do by a page that it shares, for tests: waits for each answer."""

from __future__ import annotations

import re
from collections.abc import Callable

import trio

from pyvmm.demo.stage import mailbox
from pyvmm.demo.stage.mailbox import Mail, pattern_at
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.guest_memory import GuestMemory
from tests.guest.building import defines

__all__ = ["MAIL", "Mailbox", "pattern_at", "said", "until"]

MAIL = defines("mailbox.h")


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


class Mailbox(mailbox.Mailbox):
    """Requests to the guest, and answers to the guest's. Results are signed."""

    @classmethod
    async def of(cls, memory: GuestMemory, console: Collector) -> Mailbox:
        """The one that the guest prints."""
        match = await said(console, mailbox.WHERE.pattern.decode())
        return cls(memory, int(match[1], 16))

    async def ask(self, command: str, *arguments: int) -> int:
        """Have the guest do ``MAIL_`` `command`."""
        self.post(Mail[command], *arguments)
        await until(lambda: self.is_answered)
        return self.result

    async def asked(self, command: str) -> tuple[int, int]:
        """Wait for the guest to ask for ``MAIL_`` `command`: the first two arguments."""
        await until(lambda: self.guest_asks() is not None)
        asked = self.guest_asks()
        assert asked is not None
        assert asked[0] is Mail[command]
        return asked[1:]
