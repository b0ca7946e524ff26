# SPDX-License-Identifier: MIT
"""query-pci, ``info pci`` and the BARs in ``info mtree``: ours, and QEMU's for the same devices."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio

from pyvmm.devices.pci.bars import BarKind
from pyvmm.devices.pci.config_space import PciIdentity
from pyvmm.devices.pci.description import PciDescription, PciRegion
from pyvmm.machine.block_store import MemoryStore
from pyvmm.machine.config import HostChoice, IrqchipPolicy, MachineConfig
from pyvmm.machine.device_choice import DeviceChoice
from pyvmm.machine.ending import Requester
from pyvmm.machine.monitor.commands import execute
from pyvmm.machine.monitor.pci_lines import pci_lines
from pyvmm.machine.pci.function import place_pci
from pyvmm.machine.running import running
from pyvmm.machine.virtio.block import block_device
from pyvmm.machine.wiring import Wiring
from pyvmm.memory.layout import MIB
from pyvmm.qmp.peer import open_qemu
from tests.machine.guests import bundled
from tests.qmp.guests import run

LINES = """\
  Bus  0, device   0, function 0:
    Host bridge: PCI device 1b36:0008
      PCI subsystem 1af4:1100
      id "PCI host bridge"
  Bus  0, device   1, function 0:
    SCSI controller: PCI device 1af4:1042
      PCI subsystem 1af4:1100
      IRQ 11, pin A
      BAR0: I/O at 0xc000 [0xc0ff].
      BAR1: 32 bit memory at 0xc0000000 [0xc0000fff].
      id "disk 0"
"""
UNDECODED = """\
      BAR0: I/O at 0xffffffffffffffff [0x00fe].
      BAR1: 32 bit memory at 0xffffffffffffffff [0x00000ffe].
"""


def place_disk(wiring: Wiring) -> Any:
    return place_pci(block_device(MemoryStore(bytearray(512)), "disk 0"), wiring)


def test_the_bus_is_told_as_qemu_tells_it() -> None:
    config = MachineConfig(
        bundled("hang"),
        memory=2 * MIB,
        host=HostChoice.MODEL,
        irqchip=IrqchipPolicy.ON,
        devices=DeviceChoice(added=(place_disk,), pci=True),
    )

    async def main() -> None:
        async with running(config, paused=True) as made:
            ask = partial(execute, made.machine, cpu=0, requester=Requester.QMP)
            assert UNDECODED in await ask("info pci")
            assert "virtio-pci" not in await ask("info mtree")
            pci = made.assembly.pci
            assert pci is not None
            function = dict(pci.segment)[1]
            function.write(4, 2, 7)
            assert await ask("info pci") == LINES
            tree = await ask("info mtree")
            assert "000000000000c000-000000000000c0ff (prio 0, i/o): virtio-pci of disk 0" in tree
            assert "00000000c0000000-00000000c0000fff (prio 0, i/o): virtio-pci-msix of d" in tree
            assert "00000000e0000000-00000000e00fffff (prio 0, i/o): pcie-mmcfg-mmio" in tree
            for name in ("pci-conf-idx", "pci-conf-data"):
                assert name in tree
            (bus,) = await run(made.machine, "query-pci")
            assert bus["bus"] == 0
            bridge, disk = bus["devices"]
            assert (bridge["irq_pin"], bridge["regions"], "irq" in bridge) == (0, [], False)
            assert disk == {
                "bus": 0, "slot": 1, "function": 0, "irq_pin": 1, "irq": 11, "qdev_id": "disk 0",
                "class_info": {"class": 0x100, "desc": "SCSI controller"},
                "id": {
                    "vendor": 0x1AF4, "device": 0x1042, "subsystem-vendor": 0x1AF4,
                    "subsystem": 0x1100,
                },
                "regions": [
                    {"bar": 0, "type": "io", "address": 0xC000, "size": 256},
                    {
                        "bar": 1, "type": "memory", "address": 0xC000_0000, "size": 4096,
                        "prefetch": False, "mem_type_64": False,
                    },
                ],
            }  # fmt: skip

    trio.run(main)


def test_a_machine_without_pci_has_no_buses() -> None:
    config = MachineConfig(bundled("hang"), memory=2 * MIB, host=HostChoice.MODEL)

    async def main() -> None:
        async with running(config, paused=True) as made:
            assert await run(made.machine, "query-pci") == []
            assert await execute(made.machine, "info pci", 0, Requester.QMP) == ""

    trio.run(main)


def described(told: dict[str, Any]) -> PciDescription:
    """What QEMU's query-pci tells of a function, as ours."""
    numbers = told["id"]
    return PciDescription(
        told["slot"],
        told["qdev_id"],
        PciIdentity(
            numbers["vendor"], numbers["device"], told["class_info"]["class"] << 8, 0,
            numbers["subsystem-vendor"], numbers["subsystem"],
        ),
        told.get("irq"),
        tuple(
            PciRegion(
                one["bar"],
                BarKind.IO if one["type"] == "io" else BarKind.MEMORY_32,
                one["size"],
                None if one["address"] == -1 else one["address"],
            )
            for one in told["regions"]
        ),
    )  # fmt: skip


@pytest.mark.qemu
@pytest.mark.slow
def test_qemu_s_own_lines_are_ours_for_what_it_tells() -> None:
    command = [
        "qemu-system-x86_64", "-M", "pc", "-nodefaults", "-no-user-config", "-display", "none",
        "-S", "-device", "virtio-rng-pci,id=r0,disable-modern=on",
    ]  # fmt: skip

    async def main() -> None:
        async with open_qemu(command) as qemu:
            (bus,) = await qemu.execute("query-pci")
            said = await qemu.execute("human-monitor-command", {"command-line": "info pci"})
        devices = {one["slot"]: one for one in bus["devices"] if one["function"] == 0}
        lines = str(said).replace("\r\n", "\n")
        for slot in (0, 2):
            assert "".join(f"{line}\n" for line in pci_lines([described(devices[slot])])) in lines
        assert devices[2]["id"]["vendor"] == 0x1AF4

    trio.run(main)
