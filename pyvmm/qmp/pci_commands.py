# SPDX-License-Identifier: MIT
"""query-pci: the functions of the PCI bus, in the shapes of qapi/pci.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from pyvmm.qmp.command import Arguments, Command

if TYPE_CHECKING:
    from pyvmm.devices.pci.description import PciDescription, PciRegion
    from pyvmm.qmp.served import Served


async def _query_pci(served: Served, _arguments: Arguments) -> object:
    """Return a list of buses: one, or none."""
    await trio.lowlevel.checkpoint()
    functions = served.machine.host.pci_functions()
    return [{"bus": 0, "devices": [*map(_device, functions)]}] if functions else []


def _device(one: PciDescription) -> Mapping[str, object]:
    from pyvmm.machine.monitor.pci_lines import CLASSES  # Most servers are not asked.

    identity = one.identity
    code = identity.class_code >> 8
    class_info: dict[str, object] = {"class": code}
    if code in CLASSES:
        class_info["desc"] = CLASSES[code]
    told: dict[str, object] = {
        "bus": 0,
        "slot": one.slot,
        "function": 0,
        "class_info": class_info,
        "id": {
            "vendor": identity.vendor,
            "device": identity.device,
            "subsystem-vendor": identity.subsystem_vendor,
            "subsystem": identity.subsystem,
        },
        "irq_pin": int(one.irq is not None),
        "qdev_id": one.name,
        "regions": [*map(_region, one.regions)],
    }
    if one.irq is not None:
        told["irq"] = one.irq
    return told


def _region(one: PciRegion) -> Mapping[str, object]:
    from pyvmm.devices.pci.bars import BarKind
    from pyvmm.machine.monitor.pci_lines import UNDECODED

    told: dict[str, object] = {
        "bar": one.bar,
        "type": "io" if one.kind is BarKind.IO else "memory",
        "address": UNDECODED if one.address is None else one.address,
        "size": one.size,
    }
    if one.kind is not BarKind.IO:
        told["prefetch"] = False
        told["mem_type_64"] = one.kind is BarKind.MEMORY_64
    return told


PCI_COMMANDS = (Command("query-pci", (), _query_pci),)
