# SPDX-License-Identifier: MIT
"""A virtio socket device in a machine, a guest that echoes, and programs of the host's."""

from __future__ import annotations

import os
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from pyvmm.errors import UsageError
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.hardware import Hardware, Transport, Vsock
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.machine.virtio import vsock as module
from pyvmm.machine.virtio.vsock import MOST_PATH, VsockHandler, vsock_device
from pyvmm.memory.layout import MIB
from tests.machine.guests import bundled
from tests.machine.in_trio import HANG, in_trio

KVM = pytest.param(HostChoice.KVM, Transport.PCI, marks=pytest.mark.kvm, id="kvm")
ON_HOSTS = [KVM, (HostChoice.MODEL, Transport.MMIO)]
each_host = pytest.mark.parametrize(("host", "transport"), ON_HOSTS)
LISTENS = b"guest 52 listens\n"
LARGE = bytes(range(256)) * 300
"""More than both buffers have room for."""


def config(
    path: Path, host: HostChoice = HostChoice.MODEL, transport: Transport = Transport.PCI
) -> MachineConfig:
    return MachineConfig(
        bundled("vsock"),
        memory=2 * MIB,
        host=host,
        hardware=Hardware(transport=transport, vsock=Vsock(52, path)),
        timeout=HANG,
    )


async def said(stream: trio.SocketStream, size: int) -> bytes:
    """Read `size` bytes, or what there is before the end."""
    found = b""
    while len(found) < size and (more := await stream.receive_some(size - len(found))):
        found += more
    return found


async def over(stream: trio.SocketStream) -> bytes:
    """Read until the end, or a reset."""
    found = b""
    with suppress(trio.BrokenResourceError):
        while more := await stream.receive_some():
            found += more
    return found


async def connect(path: Path, first: bytes = b"") -> trio.SocketStream:
    """Connect to the guest's port, with `first` right behind the request."""
    stream = await trio.open_unix_socket(path)
    await stream.send_all(b"CONNECT 1234\n" + first)
    answer = b""
    while not answer.endswith(b"\n"):
        byte = await stream.receive_some(1)
        assert byte, "the connection was refused"
        answer += byte
    word, port = answer.split()
    assert word == b"OK"
    assert int(port) >= 1 << 30
    return stream


async def end(machine: Machine, path: Path) -> None:
    """Have the guest end."""
    async with await connect(path) as stream:
        await stream.send_all(b"end\n")
        await stream.send_eof()
        assert await said(stream, 100) == b"end\n"
    assert (await machine.control.wait()).ending.status == 0


@pytest.mark.slow
@each_host
@in_trio
async def test_a_program_connects_to_the_guest(
    host: HostChoice, transport: Transport, tmp_path: Path
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path = tmp_path / "vsock"
    async with open_machine(config(path, host, transport)) as machine:
        assert await machine.console.wait_for(LISTENS)
        assert path.stat().st_mode & 0o777 == 0o600
        async with await connect(path, b"first") as stream, trio.open_nursery() as nursery:
            assert await said(stream, 5) == b"first"
            nursery.start_soon(stream.send_all, LARGE)
            assert await said(stream, len(LARGE)) == LARGE
        assert await machine.console.wait_for(b"a connection has ended\n")
        await end(machine, path)
    assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) <= before


@each_host
@in_trio
async def test_the_guest_connects_to_a_program(
    host: HostChoice, transport: Transport, tmp_path: Path
) -> None:
    path = tmp_path / "vsock"
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    with listener:
        await listener.bind(f"{path}_77")
        listener.listen()
        async with open_machine(config(path, host, transport)) as machine:
            connection, _ = await listener.accept()
            async with trio.SocketStream(connection) as stream:
                await stream.send_all(b"hello")
                assert await said(stream, 5) == b"hello"
                await stream.send_eof()
                assert await said(stream, 1) == b""
            assert await machine.console.wait_for(LISTENS)
            await end(machine, path)


@pytest.mark.slow
@each_host
@in_trio
async def test_a_restored_guest_is_told_that_its_connections_are_gone(
    host: HostChoice, transport: Transport, tmp_path: Path
) -> None:
    path = tmp_path / "vsock"
    async with open_machine(config(path, host, transport)) as machine:
        assert await machine.console.wait_for(LISTENS)
        async with await connect(path, b"one") as stream:
            assert await said(stream, 3) == b"one"
            saved = await machine.control.save()
            await machine.control.pause()
            machine.control.resume()
            await stream.send_all(b"two")
            assert await said(stream, 3) == b"two", "neither pausing nor saving ends it"
            await machine.control.restore(saved)
            await over(stream)
        assert await machine.console.wait_for(b"connections are gone, guest 52\n")
        await end(machine, path)


@in_trio
async def test_a_guest_goes_on_in_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "vsock"
    async with open_machine(config(path)) as machine:
        assert await machine.console.wait_for(LISTENS)
        saved = await machine.control.save()
    async with open_machine(config(path), saved=saved) as machine:
        assert await machine.console.wait_for(b"connections are gone, guest 52\n")
        await end(machine, path)


@pytest.mark.parametrize(
    "request_", [b"CONNECT\n", b"CONNECT x\n", b"CONNECT 4294967295\n", b"GET /\n", b"C" * 40]
)
@in_trio
async def test_what_asks_for_no_port_is_sent_away(request_: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vsock"
    async with open_machine(config(path), paused=True):
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(request_)
            assert await over(stream) == b""


@in_trio
async def test_there_are_only_so_many_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_CONNECTIONS", 1)
    path = tmp_path / "vsock"
    with ExitStack() as stack:
        handler = vsock_device(Vsock(52, path), stack).handler
        assert isinstance(handler, VsockHandler)
        handler.on_ready = lambda queue: None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handler.serve)
            first = await trio.open_unix_socket(path)
            async with await trio.open_unix_socket(path) as second:
                await second.send_all(b"no port\n")
                await trio.testing.wait_all_tasks_blocked()
                assert handler.connections == 1
                await first.aclose()
                assert await over(second) == b"", "it gets its turn"
            nursery.cancel_scope.cancel()
    assert not path.exists()


@pytest.mark.parametrize("cid", [-1, 0, 2, (1 << 32) - 1, 1 << 64])
def test_ids_that_no_guest_has(cid: int, tmp_path: Path) -> None:
    with ExitStack() as stack, pytest.raises(UsageError, match="context ID is 3 to"):
        vsock_device(Vsock(cid, tmp_path / "vsock"), stack)
    assert list(tmp_path.iterdir()) == []


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in (
        (tmp_path / "file", "a file of that name exists"),
        (tmp_path / ("x" * MOST_PATH), "too long"),
    ):
        with pytest.raises(UsageError, match=why):
            run(config(path))
