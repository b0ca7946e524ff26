# SPDX-License-Identifier: MIT
"""What is told and what may be asked while memory is dumped or saved: beside QEMU, and on ours."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pyvmm.errors import PyvmmError
from pyvmm.machine.config import HostChoice
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.qmp.command import CommandError
from pyvmm.qmp.peer import QmpRefusalError
from tests.machine.inside import ram_of
from tests.machine.private_machines import config as private_config

from .guests import HANG, Asked, asked, drive, hanging, run, spinning
from .talk import served, talking
from .test_dump import hanging_qemu

BUSY = "There is a dump in process, please wait."
LAST = 4 * MIB - 16
"""The end of a small guest's RAM, which is dumped last."""


@asynccontextmanager
async def slow_fifo(path: Path) -> AsyncIterator[Callable[[], bytes]]:
    """A FIFO that is open and not read from; what comes reads all of it."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:

        def read_all() -> bytes:
            os.set_blocking(reader, True)
            found = bytearray()
            while data := os.read(reader, 1 << 16):
                found += data
            return bytes(found)

        yield read_all
    finally:
        os.close(reader)


class Monitor:
    """A machine of ours, or QEMU, asked the same things."""

    async def ask(self, name: str, **arguments: Any) -> Any:
        """The answer; an error's words."""
        raise NotImplementedError

    def heard(self) -> list[str]:
        """The names of all events so far."""
        raise NotImplementedError

    async def dump(self, path: Path, **more: Any) -> Any:
        return await self.ask("dump-guest-memory", paging=False, protocol=f"file:{path}", **more)

    async def status(self) -> str:
        return str((await self.ask("query-status"))["status"])


class Ours(Monitor):
    def __init__(self, asked_: Asked) -> None:
        self._asked = asked_

    async def ask(self, name: str, **arguments: Any) -> Any:
        try:
            return await run(self._asked, name, **arguments)
        except (CommandError, PyvmmError) as refused:
            return str(refused)

    def heard(self) -> list[str]:
        return [event.name for event in self._asked.told]


@asynccontextmanager
async def ours(_: Path) -> AsyncIterator[Monitor]:
    async with hanging(HostChoice.MODEL) as machine, asked(machine) as one:
        yield Ours(one)


@asynccontextmanager
async def qemus(tmp_path: Path) -> AsyncIterator[Monitor]:
    async with hanging_qemu(tmp_path) as qemu:
        await qemu.execute("cont")
        before = len(qemu.events())

        class Qemus(Monitor):
            async def ask(self, name: str, **arguments: Any) -> Any:
                try:
                    return await qemu.execute(name, arguments)
                except QmpRefusalError as refused:
                    return refused.cause

            def heard(self) -> list[str]:
                return [event.name for event in qemu.events()[before:]]

        yield Qemus()


async def conversation(monitor: Monitor, tmp_path: Path) -> list[object]:
    """What is answered and told, the same way from everybody."""
    found: list[object] = []
    found.append(await monitor.dump(tmp_path / "plain"))
    found.append(await monitor.dump(tmp_path / "nothing", begin=1 << 40, length=4096))
    found.append(await monitor.status())
    found.append(monitor.heard())
    async with slow_fifo(tmp_path / "fifo") as read_all:
        found.append(await monitor.dump(tmp_path / "fifo", detach=True))
        found.append(await monitor.status())
        found.extend([await monitor.ask("stop"), await monitor.ask("cont")])
        found.append(await monitor.dump(tmp_path / "other"))
        found.append(await monitor.status())
        found.append((await monitor.ask("query-dump"))["status"])
        found.append(monitor.heard())
        await trio.to_thread.run_sync(read_all)
        while await monitor.status() == "save-vm":
            await trio.sleep(0.005)
    found.append(await monitor.status())
    found.append(monitor.heard())
    await monitor.ask("stop")
    async with slow_fifo(tmp_path / "second") as read_all:
        found.append(await monitor.dump(tmp_path / "second", detach=True))
        found.append(await monitor.status())
        found.append(await monitor.ask("cont"))
        await trio.to_thread.run_sync(read_all)
        while (await monitor.ask("query-dump"))["status"] == "active":
            await trio.sleep(0.005)
    found.append(await monitor.status())
    found.append(await monitor.ask("cont"))
    found.append(monitor.heard())
    return found


WHILE_RUNNING = ["STOP", "DUMP_COMPLETED", "RESUME"]
PLAIN = [*WHILE_RUNNING, "STOP", "RESUME"]
EXPECTED: list[object] = [
    {}, "dump: no guest memory to dump", "running", PLAIN,
    {}, "save-vm", BUSY, BUSY, BUSY, "save-vm", "active", [*PLAIN, "STOP"],
    "running", [*PLAIN, *WHILE_RUNNING],
    {}, "paused", BUSY, "paused", {},
    [*PLAIN, *WHILE_RUNNING, "STOP", "DUMP_COMPLETED", "RESUME"],
]  # fmt: skip


@pytest.mark.parametrize("monitor", [ours, pytest.param(qemus, marks=pytest.mark.qemu)])
def test_the_guest_stands_still_and_that_is_told(monitor: Any, tmp_path: Path) -> None:
    async def main() -> None:
        with trio.fail_after(HANG):
            async with monitor(tmp_path) as opened:
                assert await conversation(opened, tmp_path) == EXPECTED

    drive(main)


@pytest.mark.parametrize("paused", [False, True])
def test_what_is_being_dumped_is_not_reset(paused: bool, tmp_path: Path) -> None:
    """QEMU aborts if the guest ran before, and resets in the middle of the dump if it did not."""

    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine, asked(machine) as one:
            monitor = Ours(one)
            if paused:
                await machine.control.pause()
            ram_of(machine).write(LAST, b"the last of them")
            async with slow_fifo(tmp_path / "fifo") as read_all:
                await monitor.dump(tmp_path / "fifo", detach=True)
                assert await monitor.ask("system_reset") == BUSY
                assert ram_of(machine).read(LAST, 16) == b"the last of them"
                core = await trio.to_thread.run_sync(read_all)
                assert b"the last of them" in core
                while (await monitor.ask("query-dump"))["status"] == "active":
                    await trio.sleep(0.005)
            assert await monitor.ask("system_reset") == {}
            assert ram_of(machine).read(LAST, 16) == bytes(16)
            assert await monitor.status() == ("paused" if paused else "running")

    drive(main)


def test_what_is_being_dumped_is_not_converted(tmp_path: Path) -> None:
    async def main() -> None:
        config = replace(private_config("hang"), host=HostChoice.MODEL)
        with trio.fail_after(HANG):
            async with open_machine(config) as machine, asked(machine) as one:
                monitor = Ours(one)
                page = {"start": 3 * MIB, "size": 4096, "to": "shared"}
                assert await monitor.ask("x-pyvmm-convert", **page) == {}
                async with slow_fifo(tmp_path / "fifo") as read_all:
                    assert await monitor.dump(tmp_path / "fifo", detach=True) == {}
                    page["to"] = "private"
                    assert await monitor.ask("x-pyvmm-convert", **page) == BUSY
                    await trio.to_thread.run_sync(read_all)
                    while (await monitor.ask("query-dump"))["status"] == "active":
                        await trio.sleep(0.005)
                assert await monitor.ask("x-pyvmm-convert", **page) == {}

    drive(main)


def test_a_pause_meanwhile_outlasts_the_dump(tmp_path: Path) -> None:
    """From the terminal, or by the program that has the machine."""

    async def main() -> None:
        async with spinning(HostChoice.MODEL) as machine, asked(machine) as one:
            monitor = Ours(one)
            async with slow_fifo(tmp_path / "fifo") as read_all:
                await monitor.dump(tmp_path / "fifo", detach=True)
                await machine.control.pause()
                assert await monitor.status() == "paused"
                await trio.to_thread.run_sync(read_all)
                while "DUMP_COMPLETED" not in monitor.heard():
                    await trio.sleep(0.005)
            assert "RESUME" not in monitor.heard()
            assert await monitor.status() == "paused"

    drive(main)


def test_an_end_meanwhile_is_no_resume(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            slow_fifo(tmp_path / "fifo"),
            spinning(HostChoice.MODEL) as machine,
            asked(machine) as one,
        ):
            monitor = Ours(one)
            await monitor.dump(tmp_path / "fifo", detach=True)
            assert await monitor.ask("quit") == {}
        assert sorted(monitor.heard()) == ["DUMP_COMPLETED", "SHUTDOWN", "STOP"]

    drive(main)


@pytest.mark.parametrize("name", ["pmemsave", "x-pyvmm-pmemsave"])
def test_a_reset_waits_until_memory_is_saved(name: str, tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "qmp"
        async with served(path) as machine, talking(path) as first, talking(path) as second:
            ram_of(machine).write(LAST, b"the last of them")
            async with slow_fifo(tmp_path / "fifo") as read_all:
                saving = b'{"execute":"%s","arguments":{"val":0,"size":%d,"filename":"%s"}}' % (
                    name.encode(), 4 * MIB, os.fsencode(tmp_path / "fifo"),
                )  # fmt: skip
                await first.send(saving)
                # The saving command has begun once no other is let in.
                await trio.testing.wait_all_tasks_blocked()
                await second.send(b'{"execute":"system_reset"}')
                # Were it let in, it would be done long before.
                with trio.move_on_after(0.2) as waited:
                    await second.answer()
                assert waited.cancelled_caught
                assert ram_of(machine).read(LAST, 16) == b"the last of them"
                saved = await trio.to_thread.run_sync(read_all)
                assert saved.endswith(b"the last of them")
                assert "return" in await first.answer()
                assert await second.answer() == {"return": {}}
                assert ram_of(machine).read(LAST, 16) == bytes(16)

    drive(main)
