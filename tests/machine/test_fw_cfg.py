# SPDX-License-Identifier: MIT
"""What fw_cfg tells a guest of its machine, and that its DMA reaches shared memory only."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
import trio

from pyvmm import bundled_guests
from pyvmm.boot.loader import plan_boot
from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.fw_cfg import FwCfg, Item, Key
from pyvmm.machine.config import HostChoice, MachineConfig, PrivateConfig
from pyvmm.machine.dma import GuestDma
from pyvmm.machine.fw_cfg_items import machine_items
from pyvmm.machine.machine import Machine
from pyvmm.machine.running import open_machine
from pyvmm.memory.address_map import AddressMap
from pyvmm.memory.conversion import Side
from pyvmm.memory.layout import ECAM_GPA, ECAM_SIZE, GIB, MIB, GpaRange
from pyvmm.rules.abi import PAGE_SIZE
from tests.machine.inside import memory_of, ram_of

from ..boot.images import ENTRY, Segment, pvh
from ..devices.guest_bytes import Memory
from .guests import bundled


class Told:
    """fw_cfg's registers with `items`."""

    def __init__(self, items: dict[int, Item]) -> None:
        self.bus = Bus("port", ports.PORT_SPACE_SIZE)
        registers = FwCfg(lambda: items, Memory(0)).registers
        self.bus.add(ports.FW_CFG, ports.FW_CFG_LENGTH, registers, "fw_cfg", width=2)

    def item(self, key: int, size: int) -> bytes:
        self.bus.write(ports.FW_CFG, 2, key)
        return self.bus.handle_in(ports.FW_CFG + 1, 1, size)


def numbers(machine: Told, key: int, size: int) -> int:
    return int.from_bytes(machine.item(key, size), "little")


def test_the_items_of_a_machine() -> None:
    layout = AddressMap.of(4 * GIB)
    image = pvh(segments=[Segment(ENTRY, b"kernel", zeros=0x2FFA)])
    plan = plan_boot(image, layout, b"a line", b"initrd")
    machine = Told(dict(machine_items(layout, 3, plan, b"a line")))
    assert machine.item(Key.SIGNATURE, 4) == b"QEMU"
    assert numbers(machine, Key.ID, 8) == 3
    assert numbers(machine, Key.RAM_SIZE, 9) == 4 * GIB
    assert numbers(machine, Key.CPUS, 4) == numbers(machine, Key.MAX_CPUS, 4) == 3
    assert machine.item(Key.COMMAND_LINE, numbers(machine, Key.COMMAND_LINE_SIZE, 4)) == b"a line\0"
    assert numbers(machine, Key.KERNEL_ENTRY, 4) == ENTRY
    assert numbers(machine, Key.KERNEL_ADDRESS, 4) == ENTRY
    assert numbers(machine, Key.KERNEL_SIZE, 4) == 0x3000
    assert machine.item(Key.KERNEL_DATA, 7) == b"kernel\0"
    assert machine.item(Key.INITRD_DATA, numbers(machine, Key.INITRD_SIZE, 4)) == b"initrd"
    assert plan.initrd is not None
    assert numbers(machine, Key.INITRD_ADDRESS, 4) == plan.initrd.start
    directory = machine.item(Key.FILE_DIRECTORY, 68)
    assert directory[:4] == b"\0\0\0\x01"
    assert directory[12:21] == b"etc/e820\0"
    e820 = machine.item(int.from_bytes(directory[8:10], "big"), 40)
    assert struct.unpack("<QQIQQI", e820) == (0, 3 * GIB, 1, 4 * GIB, GIB, 1)


def test_the_memory_map_reserves_the_memory_mapped_configuration_of_pci() -> None:
    address_map = AddressMap.of(64 * MIB, pci=True)
    plan = plan_boot(b"\xf4", address_map)
    machine = Told(dict(machine_items(address_map, 1, plan, b"")))
    place = int.from_bytes(machine.item(Key.FILE_DIRECTORY, 68)[8:10], "big")
    assert struct.unpack("<QQIQQI", machine.item(place, 40)) == (
        *(0, 64 * MIB, 1),
        *(ECAM_GPA, ECAM_SIZE, 2),
    )


def test_a_kernel_with_a_large_hole_in_it_takes_no_memory_and_a_flat_image_has_no_kernel() -> None:
    layout = AddressMap.of(3 * GIB)
    far = 2 * GIB
    segments = [Segment(ENTRY, b"first"), Segment(far, b"second")]
    plan = plan_boot(pvh(segments=segments), layout)
    items = machine_items(layout, 1, plan, b"")
    assert items[Key.KERNEL_DATA].size == far + 6 - ENTRY
    assert sum(len(piece) for _, piece in items[Key.KERNEL_DATA].pieces) == 11
    flat = machine_items(layout, 1, plan_boot(b"\xf4", layout), b"")
    assert Key.KERNEL_ENTRY not in flat
    assert Key.COMMAND_LINE not in flat
    assert flat[Key.RAM_SIZE].pieces[0][1] == (3 * GIB).to_bytes(8, "little")


HOSTS = [pytest.param(HostChoice.KVM, marks=pytest.mark.kvm, id="kvm"), HostChoice.MODEL]


def within(config: MachineConfig, act: Callable[[Machine, GuestDma], None]) -> None:
    """`act` with a machine whose guest has not begun, and its memory as devices reach it."""

    async def whole() -> None:
        async with open_machine(config, paused=True) as machine:
            act(machine, GuestDma(memory_of(machine), "a test"))

    trio.run(whole)


@pytest.mark.parametrize("host", HOSTS)
def test_dma_reaches_ram_on_both_sides_of_the_hole_and_nothing_else(host: HostChoice) -> None:
    size = 3 * GIB + 2 * MIB

    def act(machine: Machine, dma: GuestDma) -> None:
        end = 4 * GIB + 2 * MIB
        assert dma.write(4 * GIB, b"above")
        assert dma.read(4 * GIB, 5) == b"above"
        assert dma.write(3 * GIB - 2, b"ab")
        assert not dma.write(3 * GIB - 2, b"cdef")
        assert machine.memory.read(3 * GIB - 2, 2) == b"ab", "all or nothing"
        assert dma.read(3 * GIB - 2, 4) is None
        assert not dma.write(end, b"x")
        assert dma.read((1 << 64) - 8, 16) is None
        for gpa, length in (((1 << 64) - 8, 0xFFFF_FFFF), (MIB, 0xFFFF_FFFF), (1 << 64, 1)):
            with dma.held(gpa, length) as held:
                assert held is None
        # All that is below the hole, but for a byte: what was written is gone at both ends of it.
        ram_of(machine).write(MIB - 1, b"<>")
        with dma.held(MIB, 3 * GIB - MIB - 1) as held:
            assert held is not None
            held.clear(0, 3 * GIB - MIB - 1)
        assert machine.memory.read(MIB - 1, 2) == b"<\0"
        assert machine.memory.read(3 * GIB - 2, 2) == b"\0b"
        assert dma.read(4 * GIB, 5) == b"above"

    within(MachineConfig(b"\xf4", memory=size, host=host), act)


def test_dma_leaves_private_pages_alone() -> None:
    def act(machine: Machine, dma: GuestDma) -> None:
        ram_of(machine).write(4 * MIB, b"\x11" * 3 * PAGE_SIZE)
        machine.memory.conversion.convert(4 * MIB + PAGE_SIZE, PAGE_SIZE, Side.PRIVATE)
        before = ram_of(machine).read(4 * MIB + PAGE_SIZE, PAGE_SIZE)
        assert dma.read(4 * MIB, 3 * PAGE_SIZE) is None
        assert not dma.write(4 * MIB, b"\x22" * 3 * PAGE_SIZE)
        with dma.held(4 * MIB, 3 * PAGE_SIZE) as held:
            assert held is None
        for page in (0, 2):
            at = 4 * MIB + page * PAGE_SIZE
            assert ram_of(machine).read(at, PAGE_SIZE) == b"\x11" * PAGE_SIZE, "all or nothing"
        assert ram_of(machine).read(4 * MIB + PAGE_SIZE, PAGE_SIZE) == before
        with dma.held(4 * MIB, PAGE_SIZE) as held:
            assert held is not None
            held.write(0, b"\x22" * 8)
            assert memory_of(machine).leases.holder_over(GpaRange(4 * MIB, 4 * MIB + 1)) == "a test"
        assert memory_of(machine).leases.holder_over(GpaRange(4 * MIB, 4 * MIB + 1)) is None
        assert ram_of(machine).read(4 * MIB, 16) == b"\x22" * 8 + b"\x11" * 8

    private = PrivateConfig(bundled_guests.firmware())
    within(
        MachineConfig(bundled("exit"), memory=16 * MIB, host=HostChoice.MODEL, private=private), act
    )
