# SPDX-License-Identifier: MIT
"""Functions of the bus as values, for people and programs that ask what there is. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pyvmm.devices.pci.bars import BarKind
from pyvmm.devices.pci.config_space import PciIdentity
from pyvmm.devices.pci.segment import GuardedFunction, PciSegment


class PciRegion(NamedTuple):
    """A BAR of `size` bytes; `address` is a port or a GPA, None where it is not decoded."""

    bar: int
    kind: BarKind
    size: int
    address: int | None


class PciDescription(NamedTuple):
    """A function: its slot, its device's name, and what a driver finds.

    `irq` is what the interrupt line register says; None for a function without INTA.
    """

    slot: int
    name: str
    identity: PciIdentity
    irq: int | None
    regions: tuple[PciRegion, ...]


def describe(segment: PciSegment) -> Iterator[PciDescription]:
    """Yield what is in each slot, ascending; each function is looked at under its guard."""
    for slot, function in segment:
        yield _describe_one(slot, function)


def _describe_one(slot: int, function: GuardedFunction) -> PciDescription:
    with function.entered():
        space = function.space
        placed = {bar.number: address for bar, address in space.placed()}
        return PciDescription(
            slot,
            function.name,
            space.identity,
            space.interrupt_line if space.has_interrupt else None,
            tuple(
                PciRegion(bar.number, bar.kind, bar.size, placed.get(bar.number))
                for bar in space.bars
            ),
        )
