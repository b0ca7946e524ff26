# SPDX-License-Identifier: MIT
"""The PCI bus as lines, in the form of QEMU's ``info pci``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pyvmm.devices.pci.bars import BarKind
from pyvmm.devices.pci.description import PciDescription, PciRegion

CLASSES = {
    0x0100: "SCSI controller",
    0x0200: "Ethernet controller",
    0x0600: "Host bridge",
}
"""Class and subclass as QEMU calls them (``pci_class_descriptions``); it has no words for others
that are here."""

UNDECODED = -1
"""Address of a BAR that is not decoded, as QEMU has it."""
_WORD = (1 << 64) - 1


def pci_lines(functions: Iterable[PciDescription]) -> Iterator[str]:
    """A line for each thing that there is to say of a function, bus 0 being the only one."""
    for one in functions:
        identity = one.identity
        code = identity.class_code >> 8
        yield f"  Bus  0, device {one.slot:3d}, function 0:"
        kind = CLASSES.get(code, f"Class {code:04d}")
        yield f"    {kind}: PCI device {identity.vendor:04x}:{identity.device:04x}"
        yield f"      PCI subsystem {identity.subsystem_vendor:04x}:{identity.subsystem:04x}"
        if one.irq is not None:
            yield f"      IRQ {one.irq}, pin A"
        yield from (f"      {_region(region)}" for region in one.regions)
        yield f'      id "{one.name}"'


def _region(region: PciRegion) -> str:
    start = UNDECODED if region.address is None else region.address
    end = start + region.size - 1
    if region.kind is BarKind.IO:
        return f"BAR{region.bar}: I/O at 0x{start & _WORD:04x} [0x{end:04x}]."
    bits = 64 if region.kind is BarKind.MEMORY_64 else 32
    return f"BAR{region.bar}: {bits} bit memory at 0x{start & _WORD:08x} [0x{end:08x}]."
