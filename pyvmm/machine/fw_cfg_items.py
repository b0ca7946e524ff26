# SPDX-License-Identifier: MIT
"""The items that fw_cfg has in a machine of ours: those that QEMU's microvm has with ``-kernel``.

There is no ACPI, so there are no files of it; and no firmware, so that what QEMU gives firmware to
load is here only told: it is in memory already.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from pyvmm.boot.plan import BootPlan, BootProtocol
from pyvmm.devices.fw_cfg import SIGNATURE, Item, Key, item_of, with_directory
from pyvmm.memory.address_map import AddressMap, MemoryType, RangeKind
from pyvmm.memory.layout import GpaRange

_TRADITIONAL_AND_DMA = 0b11
_E820_ENTRY = struct.Struct("<QQI")


def machine_items(
    address_map: AddressMap, cpus: int, plan: BootPlan, command_line: bytes
) -> Mapping[int, Item]:
    """Every item; `command_line` is without its zero byte."""
    items: dict[int, Item] = {
        Key.SIGNATURE: item_of(SIGNATURE),
        Key.ID: _u32(_TRADITIONAL_AND_DMA),
        Key.UUID: item_of(bytes(16)),
        Key.RAM_SIZE: item_of(address_map.memory.to_bytes(8, "little")),
        Key.NOGRAPHIC: _u16(0),
        Key.CPUS: _u16(cpus),
        Key.BOOT_MENU: _u16(0),
        Key.MAX_CPUS: _u16(cpus),
        Key.IRQ0_OVERRIDE: _u32(1),
    }
    if plan.protocol is not BootProtocol.FLAT:
        line = command_line + b"\0"
        items |= {Key.COMMAND_LINE_SIZE: _u32(len(line)), Key.COMMAND_LINE: item_of(line)}
        items |= _kernel(plan) | _initrd(plan)
    return with_directory(items, {"etc/e820": _e820(address_map)})


def _u16(value: int) -> Item:
    return item_of(value.to_bytes(2, "little"))


def _u32(value: int) -> Item:
    return item_of((value & 0xFFFF_FFFF).to_bytes(4, "little"))


def _kernel(plan: BootPlan) -> dict[int, Item]:
    """The kernel as it lies in memory, its zero-filled parts included."""
    where = plan.kernel
    if where is None:
        return {}
    return {
        Key.KERNEL_ENTRY: _u32(plan.entry.regs.rip),
        Key.KERNEL_ADDRESS: _u32(where.start),
        Key.KERNEL_SIZE: _u32(where.size),
        Key.KERNEL_DATA: _placed(plan, where),
    }


def _initrd(plan: BootPlan) -> dict[int, Item]:
    where = plan.initrd
    if where is None:
        return {}
    return {
        Key.INITRD_ADDRESS: _u32(where.start),
        Key.INITRD_SIZE: _u32(where.size),
        Key.INITRD_DATA: _placed(plan, where),
    }


def _placed(plan: BootPlan, where: GpaRange) -> Item:
    return Item(
        where.size,
        tuple(
            (one.gpa - where.start, one.data)
            for one in plan.placements
            if where.contains(one.gpa, len(one.data))
        ),
    )


def _e820(address_map: AddressMap) -> bytes:
    """RAM, and ECAM; as QEMU's: what lies in RAM and is reserved is for firmware to know."""
    entries = [(one.range, MemoryType.RAM) for one in address_map.ram]
    entries += [(one.range, MemoryType.RESERVED) for one in address_map.of_kind(RangeKind.ECAM)]
    return b"".join(_E820_ENTRY.pack(one.start, one.size, type_) for one, type_ in entries)
