# SPDX-License-Identifier: MIT
"""A guest that breaks the rules for drivers one by one, and a disk that stays as it is."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pyvmm.devices.placement import PlacedDevice
from pyvmm.machine.block_store import MemoryStore
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.pci.function import place_pci
from pyvmm.machine.virtio.block import block_device, place_block
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import MIB
from tests.machine import private_machines
from tests.machine.guests import bundled

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
HANG = 240.0
SOURCES = Path(__file__).parents[3] / "guest" / "programs" / "hostile"
CASE = re.compile(r'^\t\{"([^"]+)", [A-Z]+, \w+, \w+, (true|false)\},$', re.MULTILINE)


def cases(*, private: bool) -> list[str]:
    """Names of the cases in the guest's source, in the order in which it tries them."""
    found: list[str] = []
    for name in ("registers", "chains", "rings"):
        source = (SOURCES / f"{name}.c").read_text()
        found += [case for case, alone in CASE.findall(source) if private or alone == "false"]
    return found


def on_pci(store: MemoryStore, wiring: Wiring) -> PlacedDevice:
    return place_pci(block_device(store), wiring)


def try_all(config: MachineConfig, store: MemoryStore, *, private: bool = False) -> None:
    contents = bytes(store.data)
    before = len(os.listdir("/proc/self/fd"))
    completed = run(config)
    names = cases(private=private)
    assert len(names) > 50
    lines = completed.output.decode().splitlines()
    assert lines == [*names, f"broke {len(names)} rules"]
    ending = completed.result.ending
    assert (ending.kind, ending.status) == (EndingKind.EXITED, 0)
    assert store.data == contents
    assert len(os.listdir("/proc/self/fd")) == before


def disk() -> MemoryStore:
    return MemoryStore(bytearray(os.urandom(64 * 512)))


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("bus", ["pci", "mmio"])
@pytest.mark.slow
def test_each_rule_that_a_driver_breaks_is_answered(bus: str, host: HostChoice) -> None:
    store = disk()
    place = partial(on_pci if bus == "pci" else place_block, store)
    devices = DeviceChoice(added=(place,), pci=bus == "pci")
    image, memory = bundled("hostile"), 2 * MIB
    try_all(MachineConfig(image, memory=memory, host=host, devices=devices, timeout=HANG), store)


@pytest.mark.slow
def test_private_pages_are_no_part_of_a_ring_or_a_buffer() -> None:
    store = disk()
    devices = DeviceChoice(added=(partial(on_pci, store),), pci=True)
    made = private_machines.config("hostile")
    config = replace(made, host=HostChoice.MODEL, devices=devices, timeout=HANG)
    try_all(config, store, private=True)
