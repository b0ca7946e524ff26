# SPDX-License-Identifier: MIT
"""Shared folders and console ports in a machine, and guests that drive them."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import cast

import pytest
import trio
import trio.testing

from pyvmm.devices.p9.session import Session
from pyvmm.devices.virtio.p9 import P9Model
from pyvmm.errors import PyvmmError, UsageError
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.hardware import Hardware, PortChoice, Share, Transport
from pyvmm.machine.running import open_machine
from pyvmm.machine.virtio.p9 import P9Handler
from pyvmm.machine.virtio.queue_handler import BoundChain
from pyvmm.memory.layout import MIB
from tests.machine.guests import bundled
from tests.machine.in_trio import HANG, in_trio

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
each_host = pytest.mark.parametrize("host", HOSTS)


def config(
    program: str,
    host: HostChoice,
    *,
    shares: tuple[Share, ...] = (),
    ports: tuple[PortChoice, ...] = (),
    irqchip: IrqchipPolicy = IrqchipPolicy.AUTO,
    transport: Transport = Transport.PCI,
) -> MachineConfig:
    hardware = Hardware(transport=transport, shares=shares, ports=ports)
    return MachineConfig(
        bundled(program), memory=2 * MIB, host=host, hardware=hardware, timeout=HANG,
        irqchip=irqchip,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "hello").write_text("from the host\n")
    (folder / "link").symlink_to("../outside")
    (tmp_path / "outside").write_text("outside\n")
    return folder


@each_host
@pytest.mark.parametrize(
    ("read_only", "transport"), [(True, Transport.MMIO), (False, Transport.PCI)]
)
def test_a_guest_uses_a_folder(
    host: HostChoice, folder: Path, read_only: bool, transport: Transport
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    shares = (Share("src", folder, read_only=read_only),)
    done = run(config("share", host, shares=shares, transport=transport))
    assert done.output.decode().splitlines() == [
        "a folder is shared as src",
        "from the host",
        "outside: errno 22",
        "through a link: errno 6",
        f"to write: errno {30 if read_only else 0}",
        "from the host",
    ]
    assert done.result.ending.status == 0
    written = {path.name: path.read_text() for path in folder.glob("written")}
    assert written == ({} if read_only else {"written": "by the guest\n"})
    assert len(os.listdir("/proc/self/fd")) == before


async def converse(stream: trio.SocketStream) -> bytes:
    said = b""
    for line in (b"one\n", b"end\n"):
        await stream.send_all(line)
        while not said.endswith(line):
            said += await stream.receive_some()
    return said


@each_host
@in_trio
async def test_a_guest_answers_on_a_port(host: HostChoice, tmp_path: Path) -> None:
    path = tmp_path / "port"
    async with open_machine(config("ports", host, ports=(PortChoice("chat", path),))) as machine:
        assert await machine.console.wait_for(b"port 1 is chat")
        assert path.stat().st_mode & 0o777 == 0o600
        async with await trio.open_unix_socket(path) as stream:
            assert await converse(stream) == b"guest: one\nguest: end\n"
        assert (await machine.control.wait()).ending.status == 0
    assert not path.exists()


@each_host
@in_trio
async def test_a_restored_guest_goes_on_with_its_port(host: HostChoice, tmp_path: Path) -> None:
    path = tmp_path / "port"
    async with open_machine(config("ports", host, ports=(PortChoice("chat", path),))) as machine:
        assert await machine.console.wait_for(b"port 1 is chat")
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(b"one\n")
            assert await stream.receive_some() == b"guest: one\n"
            saved = await machine.control.save()
            await stream.send_all(b"two\n")
            assert await stream.receive_some() == b"guest: two\n"
            await machine.control.restore(saved)
            await stream.send_all(b"end\n")
            assert await stream.receive_some() == b"guest: end\n"
        assert (await machine.control.wait()).ending.status == 0


@in_trio
async def test_a_port_is_a_socket_that_was_given() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        choice = PortChoice("chat", fd=theirs.fileno())
        async with open_machine(config("ports", HostChoice.MODEL, ports=(choice,))) as machine:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            await stream.send_all(b"end\n")
            assert await stream.receive_some() == b"guest: end\n"
            assert (await machine.control.wait()).ending.status == 0
            await stream.aclose()


@pytest.mark.parametrize(
    ("shares", "ports", "why"),
    [
        (("a", "a"), (), "by their tags"),
        (("x" * 32,), (), "a tag has 1 to 31 bytes"),
        ((), ("p", "p"), "by their names"),
        ((), ("a/b",), "no slash"),
    ],
)
def test_names_that_a_guest_could_not_use(
    tmp_path: Path, shares: tuple[str, ...], ports: tuple[str, ...], why: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError, match=why):
        run(
            config(
                "share", HostChoice.MODEL,
                shares=tuple(Share(tag, tmp_path) for tag in shares),
                ports=tuple(PortChoice(name, tmp_path / "socket") for name in ports),
            )
        )  # fmt: skip
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_neither_is_there_without_interrupts(folder: Path) -> None:
    given = config(
        "share", HostChoice.MODEL, shares=(Share("src", folder),), irqchip=IrqchipPolicy.OFF
    )
    with pytest.raises(UsageError, match="no interrupt controllers"):
        run(given)


def test_what_cannot_be_a_port_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with open(tmp_path / "file") as file:
        for choice, why in (
            (PortChoice("p", tmp_path / "file"), "a file of that name exists"),
            (PortChoice("p", tmp_path / "absent" / "socket"), "No such file"),
            (PortChoice("p", fd=file.fileno()), "is no socket"),
            (PortChoice("p", fd=9999), "is not open"),
            (PortChoice("p"), "no host side"),
        ):
            with pytest.raises(PyvmmError, match=why):
                run(config("ports", HostChoice.MODEL, ports=(choice,)))


class SlowSession:
    """A session whose answer takes until it is let go on."""

    def __init__(self) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.done: list[str] = []

    def answer(self, *_: object) -> int:
        self.entered.set()
        self.go_on.wait()
        self.done.append("answered")
        return 0

    def reset(self) -> None:
        self.done.append("closed")


@in_trio
async def test_files_are_closed_when_no_message_is_under_way_any_more() -> None:
    session = SlowSession()
    handler = P9Handler(P9Model("src", cast(Session, session)))
    async with trio.open_nursery() as machine:
        machine.start_soon(handler.serve)
        machine.start_soon(handler.handle, 0, BoundChain((), ()))
        await trio.to_thread.run_sync(session.entered.wait)
        machine.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
            session.go_on.set()
    assert session.done == ["answered", "closed"]
