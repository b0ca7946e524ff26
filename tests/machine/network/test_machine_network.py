# SPDX-License-Identifier: MIT
"""Cards of machines, from outside: their links, the end of a network, QMP's words for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.errors import UsageError
from pyvmm.machine.blocking import open_blocking_machine
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.ending import Requester
from pyvmm.machine.events import CaptureFailed, LinkChanged, MachineEvent, NetworkEnded
from pyvmm.machine.hardware import Hardware, NetCard, Transport, UserNet
from pyvmm.machine.machine import Machine
from pyvmm.machine.monitor.commands import execute
from pyvmm.machine.network import opening
from pyvmm.machine.running import open_machine
from pyvmm.machine.virtio.queue_handler import BoundChain
from pyvmm.memory.layout import MIB
from pyvmm.net.forwards import Forward, ForwardProtocol
from pyvmm.net.frames import WireEndedError
from pyvmm.qmp.command import CommandError, ErrorClass
from pyvmm.qmp.event_names import QmpEvent, qmp_events
from tests.machine.guests import bundled
from tests.machine.in_trio import HANG, in_trio
from tests.machine.virtio.socket_wire import SocketWire
from tests.qmp.guests import asked, run

MAC = bytes.fromhex("525400123456")
MODEL = ("--host", "model", "--irqchip", "on")
FORWARD = Forward(ForwardProtocol.TCP, 2222, 22)


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Have user-mode networks be sockets of ours, whose other ends these are, by card."""
    found: list[socket.socket] = []

    def open_here(_card: NetCard, _number: int, stack: ExitStack) -> SocketWire:
        wire = stack.enter_context(SocketWire())
        found.extend(wire.peers)
        return wire

    monkeypatch.setattr(opening, "_open", open_here)
    return found


def config(*cards: NetCard) -> MachineConfig:
    return MachineConfig(
        bundled("hello"),
        memory=2 * MIB,
        host=HostChoice.MODEL,
        hardware=Hardware(cards=cards),
        irqchip=IrqchipPolicy.ON,
        timeout=HANG,
    )


@contextmanager
def heard(machine: Machine) -> Iterator[list[MachineEvent]]:
    events: list[MachineEvent] = []
    with machine.events.listen(events.append):
        yield events


@in_trio
async def test_a_link_is_taken_and_given_back(peers: list[socket.socket]) -> None:
    cards = (NetCard(UserNet((FORWARD,)), mac=MAC, mtu=1400), NetCard(UserNet()))
    async with open_machine(config(*cards), paused=True) as machine:
        network = machine.network
        with heard(machine) as events:
            network.set_link("net 1", up=True)
            network.set_link("net1", up=False)
            network.set_link("net 1", up=False)
            assert [one.is_link_up for one in network.cards] == [True, False]
            network.set_link("net 1", up=True)
            assert events == [LinkChanged("net 1", False), LinkChanged("net 1", True)]
        first = network.cards[0]
        assert first.name == "net 0"
        assert (first.mac, first.mtu, first.ended) == (MAC, 1400, None)
        assert first.wire == "type=user,hostfwd=tcp::2222-:22"
        with pytest.raises(UsageError, match="no such network card; there are net 0, net 1"):
            network.set_link("net 2", up=True)
    assert len(peers) == 2


@in_trio
async def test_the_end_of_a_network_is_told_and_takes_the_link(
    peers: list[socket.socket],
) -> None:
    async with open_machine(config(NetCard(UserNet())), paused=True) as machine:
        with heard(machine) as events:
            cards = machine.network._cards
            assert cards is not None
            for _ in range(2):
                cards._cards[0].handler._end(WireEndedError("it fell over"))
            assert events == [
                NetworkEnded("net 0", "it fell over"),
                LinkChanged("net 0", is_up=False),
            ]
        [card] = machine.network.cards
        assert (card.is_link_up, card.ended) == (False, "it fell over")
        with pytest.raises(UsageError, match=r"its network has ended \(it fell over\)"):
            machine.network.set_link("net 0", up=True)
    del peers


@in_trio
async def test_without_cards() -> None:
    async with open_machine(config(), paused=True) as machine:
        assert machine.network.cards == ()
        assert machine.network.find("net 0") is None
        with pytest.raises(UsageError, match="has no network card; give it one with --net"):
            machine.network.set_link("net 0", up=True)
        with pytest.raises(CommandError, match="Device 'net0' not found") as caught:
            await run(machine, "set_link", name="net0", up=False)
        assert caught.value.error_class is ErrorClass.DEVICE_NOT_FOUND
        assert await execute(machine, "info network", 0, Requester.QMP) == ""


def test_a_blocking_machine_has_the_same(peers: list[socket.socket]) -> None:
    with open_blocking_machine(config(NetCard(UserNet())), paused=True) as machine:
        machine.network.set_link("net 0", up=False)
        assert [one.is_link_up for one in machine.network.cards] == [False]
    assert len(peers) == 1


@in_trio
async def test_qmp_sets_links_and_tells_of_them(peers: list[socket.socket]) -> None:
    async with (
        open_machine(config(NetCard(UserNet())), paused=True) as machine,
        asked(machine) as one,
    ):
        assert await run(one, "set_link", name="net 0", up=False) == {}
        assert await run(one, "set_link", name="net0", up=False) == {}
        assert one.told == [QmpEvent("X_PYVMM_LINK_CHANGED", {"name": "net 0", "up": False})]
    del peers


def commanded(machine: Machine, card: int, request: bytes) -> bytes:
    """The answer to a command of the driver's."""
    cards = machine.network._cards
    assert cards is not None
    handler = cards._cards[card].handler
    if not handler.model.negotiated:
        handler.model.accept(handler.model.features)
    answer = bytearray(b"?")
    handler._control(BoundChain((memoryview(request),), (memoryview(answer),)))
    return bytes(answer)


@in_trio
async def test_qmp_tells_which_frames_a_driver_wants(peers: list[socket.socket]) -> None:
    cards = (NetCard(UserNet(), mac=MAC), NetCard(UserNet()))
    async with open_machine(config(*cards), paused=True) as machine, asked(machine) as one:
        first, second = await run(one, "query-rx-filter")
        assert (first["name"], second["name"]) == ("net 0", "net 1")
        assert first == {
            "name": "net 0",
            "promiscuous": True,
            "multicast": "normal",
            "unicast": "normal",
            "vlan": "all",
            "broadcast-allowed": True,
            "multicast-overflow": False,
            "unicast-overflow": False,
            "main-mac": "52:54:00:12:34:56",
            "vlan-table": [],
            "unicast-table": [],
            "multicast-table": [],
        }
        table = b"\1\0\0\0" + MAC + b"\1\0\0\0" + b"\x33\x33\0\0\0\1"
        for request in (
            b"\0\0\0",  # not promiscuous
            b"\0\1\1",  # all multicast
            b"\0\4\1",  # no unicast
            b"\0\5\1",  # no broadcast
            b"\1\0" + table,
            b"\2\0\5\0",  # VLAN 5
            b"\1\1\2\0\0\0\0\7",  # its address
        ):
            assert commanded(machine, 0, request) == b"\0", request
        assert one.told == [QmpEvent("NIC_RX_FILTER_CHANGED", {"name": "net 0", "path": "net 0"})]
        [first] = await run(one, "query-rx-filter", name="net0")
        assert not first["promiscuous"]
        assert not first["broadcast-allowed"]
        assert (first["multicast"], first["unicast"], first["vlan"]) == ("all", "none", "normal")
        assert first["main-mac"] == "02:00:00:00:00:07"
        assert first["vlan-table"] == [5]
        assert first["unicast-table"] == ["52:54:00:12:34:56"]
        assert first["multicast-table"] == ["33:33:00:00:00:01"]
        # Told anew, but not of a command that was refused.
        assert commanded(machine, 0, b"\0\0\2") == b"\1"
        assert len(one.told) == 1
        assert commanded(machine, 0, b"\0\0\1") == b"\0"
        assert len(one.told) == 2
        with pytest.raises(CommandError, match="invalid net client name: eth0"):
            await run(one, "query-rx-filter", name="eth0")
    del peers


def test_qmp_tells_of_ends() -> None:
    assert [*qmp_events(NetworkEnded("net 0", "so"))] == [
        QmpEvent("NETDEV_STREAM_DISCONNECTED", {"netdev-id": "net 0", "reason": "so"})
    ]
    assert [*qmp_events(CaptureFailed("net 0", Path("f"), "full"))] == [
        QmpEvent("X_PYVMM_CAPTURE_FAILED", {"name": "net 0", "filename": "f", "reason": "full"})
    ]


@in_trio
async def test_the_monitor_shows_cards_and_sets_links(peers: list[socket.socket]) -> None:
    async with open_machine(config(NetCard(UserNet(), mac=MAC)), paused=True) as machine:

        async def line(text: str) -> str:
            return await execute(machine, text, 0, Requester.QMP)

        assert await line('set_link "net 0" off') == ""
        assert await line("info network") == (
            "net 0: index=0,type=nic,model=virtio-net,macaddr=52:54:00:12:34:56,link=down\n"
            " \\ net 0: index=0,type=user\n"
        )
        assert await line("set_link net0 on") == ""
        assert "link=up" in await line("info network")
        assert "there is no such network card" in await line("set_link eth0 on")
        assert "on or off expected" in await line("set_link net0")
        assert "Ethernet controller: PCI device 1af4:1041" in await line("info pci")
        assert 'id "net 0"' in await line("info pci")
    over_mmio = Hardware(transport=Transport.MMIO, cards=(NetCard(UserNet()),))
    asked_for = replace(config(), hardware=over_mmio)
    async with open_machine(asked_for, paused=True) as machine:
        assert "net 0" in await execute(machine, "info mtree", 0, Requester.QMP)
    assert len(peers) == 2


def test_a_capture_that_fails_is_told_once_and_the_guest_goes_on(
    peers: list[socket.socket], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "hello", *MODEL, "--net", "user,pcap=/dev/full"]) == 0
    said = capfd.readouterr()
    assert "Hello" in said.out
    assert said.err.splitlines()[-1] == (
        "pyvmm: cannot write the capture /dev/full: No space left on device; net 0 goes on without"
    )
    assert len(peers) == 1


@pytest.mark.parametrize(
    ("path", "why", "code"),
    [("{}", "Is a directory", 64), ("{}/absent/f", "No such file", 64)],
)
def test_a_capture_that_cannot_be_is_refused_before_anything_is_made(
    path: str,
    why: str,
    code: int,
    tmp_path: Path,
    peers: list[socket.socket],
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = path.format(tmp_path)
    assert main(["run", "hello", *MODEL, "--net", f"user,pcap={name}"]) == code
    said = capfd.readouterr().err
    assert said.startswith(f"pyvmm: cannot write a capture to {name}: {why}")
    assert said.count("\n") == 1
    assert peers == []


def test_two_cards_have_no_capture_together(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--net", f"user,pcap={tmp_path}/f", "--net", f"tap,pcap={tmp_path}/f"]
    assert main(["run", "hello", *MODEL, *options]) == 64
    assert "a capture" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []
