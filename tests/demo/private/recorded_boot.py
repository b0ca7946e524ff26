# SPDX-License-Identifier: MIT
"""Program: a machine's life, and on standard output what its recorder was told, as JSON.

With the argument "private" it is a private stage's machine, whose guest converts memory. It lives
twice, and the second life, before which a line is waited for, is recorded: rows of [thread, call,
fd or address or path, result].
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
import threading

import trio

from pyvmm import bundled_guests
from pyvmm.demo.stage.mailbox import Mail
from pyvmm.demo.stage.private_launch import LaunchInputs
from pyvmm.demo.stage.private_machine import PrivateMachine
from pyvmm.demo.stage.private_record import PrivateRecord
from pyvmm.hosts.call_record import SystemCall
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.console.collector import Collector
from pyvmm.machine.running import running

from .stages import SETUP

GPA = 0x40_0000
_PR_SET_PTRACER = 0x59616D61


class Rows(PrivateRecord):
    """A record that makes a row of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, str, str, int]] = []

    def call(self, made: SystemCall) -> None:
        super().call(made)
        fd = re.search(r" fd (\d+)$", made.target)
        where = fd[1] if fd else made.target
        if made.target == "memory":
            where = "-1" if made.name == "mmap" else str(made.given[0].value)
        if made.name == "memfd_create":
            where = f'"{made.target}"'
        self.rows.append((threading.get_native_id(), made.name, where, made.result))


async def live_plain(rows: Rows) -> None:
    guest = bundled_guests.find("hello")
    assert guest is not None
    config = MachineConfig(guest.path.read_bytes(), host=HostChoice.KVM)
    async with running(config, Collector(), recorder=rows) as inside:
        result = await inside.machine.control.wait()
        assert result.ending.exit_code == 0, result.ending


async def live_private(rows: Rows) -> None:
    async with trio.open_nursery() as nursery:
        inputs = LaunchInputs.of(SETUP)
        machine = await PrivateMachine.open(nursery, inputs, HostChoice.KVM, rows)
        assert await machine.launch()
        assert await machine.get_ready()
        assert await machine.ask(Mail.CONVERT, GPA, 3, 0) == 0
        assert await machine.ask(Mail.CONVERT, GPA, 2, 1 << 4) == 0
        assert await machine.ask(Mail.READ, 0xC000_0000) == -1
        await machine.close()


def main() -> None:
    live = live_private if sys.argv[1:] == ["private"] else live_plain
    trio.run(live, Rows())  # What is imported at the first need opens files, which strace sees.
    # Yama lets only a parent trace a process, unless that says otherwise (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(2**64 - 1), 0, 0, 0)
    print("ready", flush=True)
    sys.stdin.readline()
    rows = Rows()
    trio.run(live, rows)
    print(json.dumps(rows.rows), flush=True)


if __name__ == "__main__":
    main()
