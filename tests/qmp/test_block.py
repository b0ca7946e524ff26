# SPDX-License-Identifier: MIT
"""query-block and BLOCK_IO_ERROR, in QAPI's shapes."""

from __future__ import annotations

import errno
from pathlib import Path

import trio

from pyvmm.machine.config import HostChoice, MachineConfig
from pyvmm.machine.disks.failures import MachineDisk, MachineDisks
from pyvmm.machine.events import DiskFailed
from pyvmm.machine.hardware import Disk, Hardware
from pyvmm.machine.running import open_machine
from pyvmm.memory.layout import MIB
from pyvmm.qmp.event_names import QmpEvent, qmp_events
from tests.machine.guests import bundled

from .guests import run


def test_disks_are_told_of(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8192))
    disks = (Disk(path, read_only=True), Disk(path, read_only=True))
    config = MachineConfig(
        bundled("block"), memory=2 * MIB, host=HostChoice.MODEL, hardware=Hardware(disks=disks)
    )

    async def main() -> None:
        async with open_machine(config, paused=True) as machine:
            first, second = await run(machine, "query-block")
            assert (first["device"], second["device"]) == ("disk 0", "disk 1")
            assert first["io-status"] == "ok"
            inserted = first["inserted"]
            assert (inserted["file"], inserted["ro"], inserted["drv"]) == (str(path), True, "raw")
            assert inserted["image"]["virtual-size"] == 8192

    trio.run(main)


def test_a_machine_without_disks_has_none() -> None:
    config = MachineConfig(bundled("hello"), memory=2 * MIB, host=HostChoice.MODEL)

    async def main() -> None:
        async with open_machine(config, paused=True) as machine:
            assert await run(machine, "query-block") == []

    trio.run(main)


def test_what_has_stopped_a_disk_is_its_status() -> None:
    disks = MachineDisks()
    disk = MachineDisk("disk 0", Disk(Path("x")), 512)
    disks.failed["disk 0"] = DiskFailed("disk 0", "write", errno.ENOSPC, stops=True)
    assert disks.io_status(disk) == errno.ENOSPC
    assert disks.io_status(disk._replace(name="disk 1")) == 0


def test_a_failure_is_an_event() -> None:
    failed = DiskFailed("disk 0", "write", errno.ENOSPC, stops=True)
    assert [*qmp_events(failed)] == [
        QmpEvent(
            "BLOCK_IO_ERROR",
            {
                "device": "disk 0",
                "operation": "write",
                "action": "stop",
                "nospace": True,
                "reason": "No space left on device",
            },
        )
    ]
    (other,) = qmp_events(DiskFailed("disk 0", "read", errno.EIO, stops=False))
    assert other.data is not None
    assert (other.data["action"], other.data["nospace"]) == ("report", False)
