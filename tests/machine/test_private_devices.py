# SPDX-License-Identifier: MIT
"""Devices of guests with private memory: rings and buffers in shared pages, and nothing else."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio

from pyvmm.errors import UsageError
from pyvmm.hosts.kvm.block_engine import KvmBlockEngine
from pyvmm.hosts.kvm.net_engine import KvmNetEngine
from pyvmm.hosts.queue_engine import Stopped
from pyvmm.machine.block_store import MemoryStore
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.hardware import Disk, Hardware, NetCard, TapNet, Transport, VhostChoice
from pyvmm.machine.leases import LeaseHeldError
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.page_states import PageState
from pyvmm.net.namespaces import new_namespace
from pyvmm.rules.abi import PAGE_SIZE
from tests.net.station import APPEND, READY, STATION, Station, answers_pings, does_it_all

from .conftest import Choice
from .in_trio import HANG, in_trio
from .inside import memory_of
from .private_machines import config
from .virtio.test_hostile_driver import on_pci, try_all

pytestmark = pytest.mark.slow

RECORDS = 20
SECTORS = 64


def machine(choice: Choice, program: str, command_line: str = "") -> MachineConfig:
    return replace(
        config(program, command_line, host=choice.host, backing=choice.backing), timeout=HANG
    )


def shared_ram(of: Machine) -> list[GpaRange]:
    """What a guest has shared of its RAM: the one region that can be private."""
    ram = next(one for one in memory_of(of).regions.sides() if one.region.can_be_private)
    runs = memory_of(of).states.runs(ram.region.range)
    return [run.range for run in runs if run.state is PageState.SHARED]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.write_bytes(bytes(SECTORS * 512))
    return made


@pytest.fixture
def station() -> Iterator[Station]:
    namespace = new_namespace()
    yield Station(namespace)
    os.close(namespace)


def test_a_disk_is_served_by_the_host_s_engine(
    private_choice: Choice, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    run = KvmBlockEngine.run

    def watched(self: KvmBlockEngine, *, waits: bool = True) -> Stopped:
        before = self.counts.requests
        stopped = run(self, waits=waits)
        done.append(self.counts.requests - before)
        return stopped

    monkeypatch.setattr(KvmBlockEngine, "run", watched)
    shared: list[GpaRange] = []

    async def act() -> None:
        hardware = Hardware(disks=(Disk(disk),), transport=Transport.PCI)
        made = replace(machine(private_choice, "block", f"log={RECORDS}"), hardware=hardware)
        async with open_machine(made) as opened:
            assert await opened.console.wait_for(b"flushed 3\n")
            shared.extend(shared_ram(opened))
            ended = (await opened.control.wait()).ending
            assert (ended.kind, ended.status) == (EndingKind.EXITED, 0), opened.console.output

    trio.run(act)
    content = disk.read_bytes()
    for number in range(1, RECORDS + 1):
        assert content[number * 512 : (number + 1) * 512] == number.to_bytes(8, "little") * 64
    assert 0 < sum(one.size for one in shared) <= 16 * PAGE_SIZE, "all else has stayed private"
    if private_choice.host is HostChoice.KVM:
        assert sum(done) > RECORDS


@pytest.mark.parametrize("by_engine", [True, False], ids=["engine", "python"])
def test_private_pages_are_no_part_of_a_ring_or_a_buffer(
    private_choice: Choice, disk: Path, by_engine: bool
) -> None:
    made = machine(private_choice, "hostile")
    store = MemoryStore(bytearray(os.urandom(SECTORS * 512)))
    if by_engine:
        disk.write_bytes(store.data)
        made = replace(made, hardware=Hardware(disks=(Disk(disk),), transport=Transport.PCI))
    else:
        made = replace(made, devices=DeviceChoice(added=(partial(on_pci, store),), pci=True))
    try_all(made, store, private=True)
    assert not by_engine or disk.read_bytes() == store.data


class Slow(MemoryStore):
    """A store whose first write waits until it may go on."""

    def __init__(self) -> None:
        super().__init__(bytearray(SECTORS * 512))
        self.begun, self.go_on = trio.Event(), trio.Event()

    async def write(self, offset: int, data: Sequence[memoryview]) -> None:
        self.begun.set()
        await self.go_on.wait()
        await super().write(offset, data)


def test_what_a_disk_works_on_is_not_converted(private_choice: Choice) -> None:
    async def act() -> None:
        store = Slow()
        devices = DeviceChoice(added=(partial(on_pci, store),), pci=True)
        made = replace(machine(private_choice, "block", "rounds=1"), devices=devices)
        async with open_machine(made) as opened:
            await store.begun.wait()
            memory = memory_of(opened)
            memory.leases.patience = 0.0
            before = memory.states.runs()
            for range_ in shared_ram(opened):
                convert = partial(memory.conversion.convert, range_.start, range_.size)
                with pytest.raises(LeaseHeldError, match="block"):
                    await trio.to_thread.run_sync(convert, Side.PRIVATE)
            assert memory.states.runs() == before
            store.go_on.set()
            assert (await opened.control.wait()).ending.status == 0, opened.console.output
        assert store.data[: 8 * 512] != bytes(8 * 512)

    trio.run(act)


@pytest.mark.net
def test_a_card_is_served_by_the_host_s_engine(
    private_choice: Choice, station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = 0

    class Counted(KvmNetEngine):
        def close(self) -> None:
            nonlocal moved
            if self._queue:
                moved += self.counts.requests
            super().close()

    monkeypatch.setattr("pyvmm.hosts.kvm.net_engine.KvmNetEngine", Counted)

    async def act() -> None:
        append = f"{APPEND}ping={STATION} serve=1"
        # What vhost-net is asked for only where it can be: private memory is not for it.
        wire = TapNet(netns=station.path, address=f"{STATION}/24", vhost=VhostChoice.AUTO)
        hardware = Hardware(transport=Transport.PCI, cards=(NetCard(wire),))
        made = replace(machine(private_choice, "net", append), hardware=hardware)
        async with open_machine(made) as opened:
            assert await opened.console.wait_for(READY)
            assert await opened.console.wait_for(b"answered: 3\n")
            [card] = opened.network.cards
            assert not card.wire.endswith("vhost-net")
            await trio.to_thread.run_sync(does_it_all, station, 20_000)
            assert await opened.console.wait_for(b" dropped\n")
            *_, counted = opened.console.output.splitlines()
            assert re.fullmatch(rb"frames: \d+ received, \d+ sent, 0 dropped", counted)
            assert (await opened.control.wait()).ending.status == 0

    trio.run(act)
    assert moved > 20 or private_choice.host is not HostChoice.KVM


@pytest.mark.net
def test_a_card_whose_rings_become_private_touches_them_no_more(
    private_choice: Choice, station: Station
) -> None:
    async def act() -> None:
        wire = TapNet(netns=station.path, address=f"{STATION}/24", vhost=VhostChoice.OFF)
        hardware = Hardware(transport=Transport.PCI, cards=(NetCard(wire),))
        made = replace(machine(private_choice, "net", f"{APPEND}serve=1"), hardware=hardware)
        async with open_machine(made) as opened:
            assert await opened.console.wait_for(READY)
            await trio.to_thread.run_sync(answers_pings, station)
            shared = shared_ram(opened)
            for range_ in shared:
                convert = partial(memory_of(opened).conversion.convert, range_.start, range_.size)
                # What the card waits with for a frame is given back to who converts.
                await trio.to_thread.run_sync(convert, Side.PRIVATE)
            assert shared_ram(opened) == []
            with station.datagrams(7) as datagrams:
                datagrams.settimeout(0.5)
                datagrams.send(b"nobody reads this")
                with pytest.raises(OSError):
                    datagrams.recv(100)
            opened.control.interrupt("enough")
            await opened.control.wait()

    trio.run(act)


@pytest.mark.net
@in_trio
async def test_vhost_net_is_refused_in_words(private_choice: Choice, station: Station) -> None:
    wire = TapNet(netns=station.path, address=f"{STATION}/24", vhost=VhostChoice.ON)
    hardware = Hardware(transport=Transport.PCI, cards=(NetCard(wire),))
    made = replace(machine(private_choice, "net", APPEND), hardware=hardware)
    with pytest.raises(UsageError, match="net 0 vhost-net: guest memory is private"):
        async with open_machine(made):
            pass
