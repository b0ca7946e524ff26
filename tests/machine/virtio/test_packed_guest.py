# SPDX-License-Identifier: MIT
"""A guest that drives a disk by a packed ring, with notifications that say how far it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pyvmm.cli.main import main
from pyvmm.devices.placement import PlacedDevice
from pyvmm.devices.virtio.features import Feature
from pyvmm.machine.block_store import MemoryStore
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.pci.function import place_pci
from pyvmm.machine.virtio.block import block_device
from pyvmm.machine.virtio.mmio import place_mmio
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import MIB
from tests.machine.guests import bundled

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
ROUNDS = [b"descriptors", b"tables", b"notifications by position"]
WITH_DATA = b"notifications with data"
SECTORS = 16


def place(store: MemoryStore, on_pci: bool, more: Feature, wiring: Wiring) -> PlacedDevice:
    device = block_device(store)._replace(more=more)
    return place_pci(device, wiring) if on_pci else place_mmio(device, wiring)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("on_pci", [True, False], ids=["pci", "mmio"])
def test_a_guest_uses_a_packed_ring(on_pci: bool, host: HostChoice) -> None:
    store = MemoryStore(bytearray(SECTORS * 512))
    more = Feature.PACKED | Feature.NOTIFICATION_DATA
    config = MachineConfig(
        bundled("packed"),
        memory=2 * MIB,
        host=host,
        command_line=b"rounds=3",
        devices=DeviceChoice(added=(partial(place, store, on_pci, more),), pci=on_pci),
        timeout=120.0,
    )
    completed = run(config)
    assert completed.output.splitlines() == [*ROUNDS, WITH_DATA]
    assert completed.result.ending.status == 0
    rounds = [bytes((turn * 41 + at // 256 + at) & 0xFF for at in range(1024)) for turn in range(3)]
    assert store.data == b"".join(rounds).ljust(SECTORS * 512, b"\0")


def test_packed_rings_are_there_where_they_are_asked_for(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(SECTORS * 512))
    command = ["run", "packed", "--host", "model", "--append", "rounds=1", "--disk", str(disk)]
    assert main(command) == 2
    assert main([*command, "--rings", "packed"]) == 0
    assert main([*command, "--rings", "packed,notification-data"]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert lines[1:] == [*ROUNDS, *ROUNDS, WITH_DATA]
    assert main([*command, "--rings", "split"]) == 64
    assert b"it is packed or notification-data" in capfdbinary.readouterr().err
