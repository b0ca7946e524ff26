# SPDX-License-Identifier: MIT
"""The monitor behind Ctrl-A c: a few words to look at a guest and to steer it, line by line."""

from __future__ import annotations

from collections.abc import Callable

import trio

from pyvmm.devices.console_keys import HELP_TEXT, EscapeKeys, KeyAction
from pyvmm.errors import PyvmmError
from pyvmm.machine.ending import Requester
from pyvmm.machine.machine import Machine

PROMPT = "(pyvmm) "


class Monitor:
    """Keeps a user's keystrokes apart: for the guest, for the monitor, or orders by themselves.

    `write` shows text to the user; it is not the guest's console.
    """

    def __init__(self, machine: Machine, write: Callable[[str], None]) -> None:
        self._machine = machine
        self._write = write
        self._keys = EscapeKeys()
        self._open = False
        self._line = bytearray()

    async def keys(self, data: bytes) -> bytes:
        """Return the part of the typed `data` that is for the guest; the rest is handled here."""
        for_guest = b""
        for item in self._keys.feed(data):
            match item:
                case bytes():
                    if self._open:
                        await self._type(item)
                    else:
                        for_guest += item
                case KeyAction.QUIT:
                    self._machine.control.interrupt(
                        "ended from the terminal (Ctrl-A x)", Requester.TERMINAL
                    )
                case KeyAction.TOGGLE_MONITOR:
                    self._toggle()
                case KeyAction.HELP:
                    self._write("\n" + HELP_TEXT)
        return for_guest

    def _toggle(self) -> None:
        self._open = not self._open
        self._line.clear()
        self._write("\npyvmm monitor: help lists the commands\n" + PROMPT if self._open else "\n")

    async def _type(self, data: bytes) -> None:
        for key in data:
            if key in b"\r\n":
                self._write("\n")
                line = " ".join(self._line.decode("utf-8", "replace").split())
                self._line.clear()
                await self._execute(line)
                if self._open:
                    self._write(PROMPT)
            elif key in b"\x7f\b":
                if self._line:
                    self._line.pop()
                    self._write("\b \b")
            elif key >= 0x20 and len(self._line) < 256:
                self._line.append(key)
                self._write(chr(key) if key < 0x7F else "?")

    async def _execute(self, line: str) -> None:
        if not line:
            await trio.lowlevel.checkpoint()
            return
        from pyvmm.machine.monitor.commands import execute  # Most runs never open the monitor.

        try:
            self._write(await execute(self._machine, line, 0, Requester.TERMINAL))
        except PyvmmError as error:
            self._write(f"{error}\n")
