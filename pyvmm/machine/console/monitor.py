"""The monitor behind Ctrl-A c: a few words to look at a guest and to steer it, line by line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from pyvmm.devices.console_keys import HELP_TEXT, EscapeKeys, KeyAction
from pyvmm.errors import PyvmmError
from pyvmm.machine.machine import Machine
from pyvmm.machine.report import collect

PROMPT = "(pyvmm) "

_HELP = """\
help            this list
stop            pause the guest
cont            let it run on
quit            end the run
info status     running or paused
info registers  registers, code and last exits of every vCPU
info memory     how much, and what it is made from
"""


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
        self._commands: dict[str, Callable[[], Awaitable[None]]] = {
            "help": self._help,
            "?": self._help,
            "stop": self._stop,
            "cont": self._cont,
            "c": self._cont,
            "quit": self._quit,
            "q": self._quit,
            "info status": self._info_status,
            "info registers": self._info_registers,
            "info memory": self._info_memory,
        }

    async def keys(self, data: bytes) -> bytes:
        """What of the typed `data` is for the guest; the rest is done here."""
        for_guest = b""
        for item in self._keys.feed(data):
            match item:
                case bytes():
                    if self._open:
                        await self._type(item)
                    else:
                        for_guest += item
                case KeyAction.QUIT:
                    self._machine.interrupt("ended from the terminal (Ctrl-A x)")
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
        command = self._commands.get(line)
        if command is None:
            self._write(f"unknown command: {line}; help lists the commands\n")
            return
        try:
            await command()
        except PyvmmError as error:
            self._write(f"{error}\n")

    async def _help(self) -> None:
        self._write(_HELP)

    async def _stop(self) -> None:
        await self._machine.pause()

    async def _cont(self) -> None:
        self._machine.resume()

    async def _quit(self) -> None:
        self._machine.interrupt("ended from the monitor (quit)")

    async def _info_status(self) -> None:
        self._write("paused\n" if self._machine.is_paused else "running\n")

    async def _info_registers(self) -> None:
        for index in range(self._machine.config.cpus):
            report = await self._machine.on_vcpu(
                index, partial(collect, index, read=self._machine.memory.read)
            )
            self._write("\n".join(report.lines()) + "\n")

    async def _info_memory(self) -> None:
        ram = self._machine.ram
        self._write(f"{ram.layout.memory >> 10} KiB, {ram.choice.reason}\n")
        for region in ram.layout.regions:
            self._write(
                f"  slot {region.slot}: gpa {region.range.start:#x}..{region.range.end:#x}\n"
            )
