# SPDX-License-Identifier: MIT
"""A virtio block device in a machine, and a guest that drives it."""

from __future__ import annotations

from functools import partial

import pytest

from pyvmm.machine.block_store import BlockStore, MemoryStore
from pyvmm.machine.blocking import run
from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.ending import EndingKind
from pyvmm.machine.virtio_block import place_block
from pyvmm.memory.layout import MIB

from .guests import bundled

HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]
SECTORS = 64
HANG = 120.0


def machine_with(store: BlockStore, host: HostChoice, command_line: bytes = b"") -> MachineConfig:
    return MachineConfig(
        bundled("block"),
        memory=2 * MIB,
        host=host,
        command_line=command_line,
        devices=DeviceChoice(added=(partial(place_block, store),)),
        timeout=HANG,
    )


def sectors(round_: int) -> bytes:
    """What the guest writes in a round."""
    return bytes((round_ * 37 + at // 512 * 11 + at) & 0xFF for at in range(8 * 512))


@pytest.mark.parametrize("host", HOSTS)
def test_a_guest_writes_sectors_and_reads_them_back(host: HostChoice) -> None:
    store = MemoryStore(bytearray(SECTORS * 512))
    completed = run(machine_with(store, host, b"rounds=3"))
    assert completed.output.splitlines() == [
        b"virtio block: 64 sectors, id virtio block",
        b"refused what cannot be",
        b"round 1",
        b"round 2",
        b"round 3",
    ]
    ending = completed.result.ending
    assert (ending.kind, ending.status) == (EndingKind.EXITED, 0)
    written = sectors(0) + sectors(1) + sectors(2)
    assert store.data == written.ljust(SECTORS * 512, b"\0")
