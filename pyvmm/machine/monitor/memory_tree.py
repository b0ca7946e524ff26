# SPDX-License-Identifier: MIT
"""A machine's address spaces as lines, in the form of QEMU's ``info mtree``. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pyvmm.memory.address_map import AddressMap, RangeKind
from pyvmm.memory.layout import GpaRange
from pyvmm.memory.regions import MemoryRegion

_INDENT = "  "
_RAM = "pyvmm.ram"


class TreeKind(enum.Enum):
    """Kind of target that answers in a range; the values are QEMU's words."""

    RAM = "ram"
    DEVICE = "i/o"


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A range of an address space, in bytes or ports: what is there.

    `target` is for RAM that is a part of something larger: its name and the offset in it.
    """

    range: GpaRange
    kind: TreeKind
    name: str
    target: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class AddressSpace:
    """An address space of `size` bytes or ports; `root` names all of it."""

    name: str
    root: str
    size: int
    entries: tuple[TreeEntry, ...]


def region_entries(address_map: AddressMap, regions: Iterable[MemoryRegion]) -> Iterator[TreeEntry]:
    """Memory that is there now; of RAM, which part of it each memslot is."""
    slots = {one.slot: one for one in address_map.slots}
    for region in regions:
        slot = slots.get(region.slot)
        if slot is None or slot.kind is not RangeKind.RAM:
            yield TreeEntry(region.range, TreeKind.RAM, region.what)
        else:
            yield TreeEntry(region.range, TreeKind.RAM, slot.name, (_RAM, slot.file_offset))


def controller_entries(address_map: AddressMap) -> Iterator[TreeEntry]:
    """Interrupt controllers, which are the host's."""
    for one in address_map.of_kind(RangeKind.CONTROLLER):
        yield TreeEntry(one.range, TreeKind.DEVICE, one.name)


def tree_lines(spaces: Sequence[AddressSpace]) -> Iterator[str]:
    """The spaces with what is in them, ascending; then what RAM is parts of."""
    for space in spaces:
        yield f"address-space: {space.name}"
        yield _INDENT + _line(GpaRange(0, space.size), TreeKind.DEVICE, space.root)
        for entry in _ascending(space.entries):
            yield 2 * _INDENT + _line(entry.range, entry.kind, _name(entry))
        yield ""
    for name, size in _targets(spaces).items():
        yield f"memory-region: {name}"
        yield _INDENT + _line(GpaRange(0, size), TreeKind.RAM, name)
        yield ""


def flat_lines(spaces: Sequence[AddressSpace]) -> Iterator[str]:
    """Yield the ranges that accesses meet, without aliases: ``info mtree -f``."""
    for number, space in enumerate(spaces):
        yield f"FlatView #{number}"
        yield f' AS "{space.name}", root: {space.root}'
        yield f" Root memory region: {space.root}"
        for entry in _ascending(space.entries):
            name = entry.name
            if entry.target is not None:
                whole, offset = entry.target
                name = f"{whole} @{offset:016x}" if offset else whole
            yield _INDENT + _line(entry.range, entry.kind, name)
        yield ""


def _ascending(entries: Iterable[TreeEntry]) -> list[TreeEntry]:
    return sorted(entries, key=lambda entry: entry.range.start)


def _line(range_: GpaRange, kind: TreeKind, name: str) -> str:
    return f"{range_.start:016x}-{range_.end - 1:016x} (prio 0, {kind.value}): {name}"


def _name(entry: TreeEntry) -> str:
    if entry.target is None:
        return entry.name
    whole, offset = entry.target
    end = offset + entry.range.size - 1
    return f"alias {entry.name} @{whole} {offset:016x}-{end:016x}"


def _targets(spaces: Sequence[AddressSpace]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for space in spaces:
        for entry in space.entries:
            if entry.target is not None:
                whole, offset = entry.target
                sizes[whole] = max(sizes.get(whole, 0), offset + entry.range.size)
    return sizes
