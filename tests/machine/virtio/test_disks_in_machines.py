# SPDX-License-Identifier: MIT
"""Disks with a file in machines: served by the host's engine on KVM, by Python on the model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from pyvmm.hosts.kvm.block_engine import KvmBlockEngine
from pyvmm.hosts.queue_engine import Stopped
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.hardware import Disk, Hardware, Transport
from pyvmm.machine.running import Running, running
from pyvmm.machine.saved_machine import SavedMachine
from pyvmm.memory.layout import MIB
from tests.machine.guests import bundled

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
RECORDS = 60
HANG = 120.0


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    made = tmp_path / "disk"
    made.write_bytes(bytes((RECORDS + 1) * 512))
    return made


def machine_with(
    disk: Path, host: HostChoice, command_line: bytes, transport: Transport
) -> MachineConfig:
    return MachineConfig(
        bundled("block"),
        memory=2 * MIB,
        host=host,
        command_line=command_line,
        hardware=Hardware(disks=(Disk(disk),), transport=transport),
        timeout=HANG,
    )


def run_to_the_end(
    config: MachineConfig,
    act: Callable[[Running], Awaitable[None]],
    saved: SavedMachine | None = None,
) -> None:
    async def main() -> None:
        async with running(config, saved=saved) as made:
            await act(made)
            result = await made.machine.control.wait()
            assert (result.ending.kind, result.ending.status) == (EndingKind.EXITED, 0), result

    trio.run(main)


async def nothing(_made: Running) -> None:
    await trio.lowlevel.checkpoint()


async def until_it_logs(made: Running) -> None:
    said = b""
    while b"flushed 3" not in said:
        said += await made.machine.console.receive()


def has_all_records(disk: Path) -> None:
    content = disk.read_bytes()
    for number in range(1, RECORDS + 1):
        found = content[number * 512 : (number + 1) * 512]
        assert found == number.to_bytes(8, "little") * 64, number


LOG = b"log=%d" % RECORDS


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("transport", "options"),
    [(Transport.MMIO, b""), (Transport.PCI, b""), (Transport.PCI, b" msix=1")],
    ids=["mmio", "INTx", "MSI-X"],
)
def test_the_engine_does_what_a_guest_asks_for(
    disk: Path, monkeypatch: pytest.MonkeyPatch, transport: Transport, options: bytes
) -> None:
    done: list[tuple[Stopped, int]] = []
    run = KvmBlockEngine.run

    def watched(self: KvmBlockEngine, *, waits: bool = True) -> Stopped:
        before = self.counts.requests
        stopped = run(self, waits=waits)
        done.append((stopped, self.counts.requests - before))
        return stopped

    monkeypatch.setattr(KvmBlockEngine, "run", watched)
    config = machine_with(disk, HostChoice.KVM, LOG + options, transport)
    run_to_the_end(config, nothing)
    has_all_records(disk)
    # Its ID, and three requests that cannot be.
    assert [stopped for stopped, _ in done].count(Stopped.ODD_CHAIN) == 5
    assert sum(count for _, count in done) > RECORDS


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("transport", Transport)
def test_a_reset_of_the_driver_s_ends_what_is_under_way(
    disk: Path, host: HostChoice, transport: Transport
) -> None:
    run_to_the_end(machine_with(disk, host, b"rounds=1 resets=1", transport), nothing)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("transport", Transport)
def test_a_machine_is_reset_while_its_guest_writes(
    disk: Path, host: HostChoice, transport: Transport
) -> None:
    async def act(made: Running) -> None:
        await until_it_logs(made)
        await made.machine.control.reset()

    run_to_the_end(machine_with(disk, host, LOG, transport), act)
    has_all_records(disk)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("transport", Transport)
def test_a_machine_that_is_saved_while_its_guest_writes_goes_on_in_another_one(
    disk: Path, host: HostChoice, transport: Transport
) -> None:
    config = machine_with(disk, host, LOG, transport)

    async def save() -> SavedMachine:
        async with running(config) as made:
            await until_it_logs(made)
            return await made.machine.control.save()

    run_to_the_end(config, nothing, trio.run(save))
    has_all_records(disk)
