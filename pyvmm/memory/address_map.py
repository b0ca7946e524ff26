# SPDX-License-Identifier: MIT
"""The address map of one machine: computed from its configuration, and everything else from it.

Memslots and their numbers, the memory map that a guest is told of, and what lies in the hole below
4 GiB. The addresses themselves are those of `pyvmm.memory.layout`: GPAs in bytes, ends exclusive.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from pyvmm.errors import HostLacksError, InternalError, UsageError
from pyvmm.memory.layout import (
    ACPI_GPA,
    ECAM_GPA,
    ECAM_SIZE,
    FIRMWARE_GPA,
    FIRMWARE_SIZE,
    HIGH_MEMORY_START,
    HOLE_END,
    HOLE_START,
    IOAPIC_GPA,
    LAUNCH_END,
    LAUNCH_TABLES,
    LEAST_PHYSICAL_ADDRESS_BITS,
    LOCAL_APIC_GPA,
    LOW_USABLE_END,
    MAX_MEMORY,
    MIN_MEMORY,
    PCI_LOW_BESIDE_LAUNCH_GPA,
    PCI_LOW_GPA,
    STAGING_GPA,
    STAGING_MAX,
    WINDOW_GPA,
    GpaRange,
)
from pyvmm.rules.abi import PAGE_SIZE


class RangeKind(enum.Enum):
    """Kind of what lies in a range."""

    RAM = "RAM"
    RESERVED = "reserved"
    """Backed as RAM, and not for the guest to use."""
    ACPI = "ACPI tables"
    FIRMWARE = "firmware"
    CONTROLLER = "interrupt controller"
    PCI_WINDOW = "PCI window"
    """Room for BARs."""
    ECAM = "PCI configuration"
    WINDOW = "shared window"
    STAGING = "staging area"


class MemoryType(enum.IntEnum):
    """Types of the memory map that a guest is told; the values are those of E820 and PVH."""

    RAM = 1
    RESERVED = 2


class SlotNumber(enum.IntEnum):
    """Numbers of the memslots that a machine may have."""

    RAM_BELOW_4G = 0
    RAM_ABOVE_4G = 1
    WINDOW = 2
    STAGING = 3
    FIRMWARE = 4


_TYPES = {
    RangeKind.RAM: MemoryType.RAM,
    RangeKind.RESERVED: MemoryType.RESERVED,
    RangeKind.ACPI: MemoryType.RESERVED,
    # Linux refuses an ECAM that no table reserves (its arch/x86/pci/mmconfig-shared.c).
    RangeKind.ECAM: MemoryType.RESERVED,
}
"""Kinds that the guest is told of; the rest is holes to it."""


# Named tuples, not dataclasses: these take eight times as long to make when a command starts.


class MapRange(NamedTuple):
    """Contents of `range`; `name` tells it from others of its kind."""

    range: GpaRange
    kind: RangeKind
    name: str

    def __str__(self) -> str:
        return f"{self.name} at {self.range.start:#x}..{self.range.end:#x}"


class MapEntry(NamedTuple):
    """One line of the memory map that the guest is given."""

    range: GpaRange
    type: MemoryType


class MapSlot(NamedTuple):
    """A memslot: `range` is the most that it takes; RAM begins at `file_offset` of its file.

    The staging area is as long as its contents; all other slots take their range.
    """

    slot: int
    range: GpaRange
    kind: RangeKind
    name: str
    file_offset: int = 0


@dataclass(frozen=True)
class AddressMap:
    """Ranges of a machine with `memory` bytes of RAM, ascending; and its memslots: use `of`.

    Raises `UsageError` for ranges that overlap, naming both, and for a slot that is given out
    twice, has no whole pages, or lies in no range.
    """

    memory: int
    ranges: tuple[MapRange, ...]
    slots: tuple[MapSlot, ...]

    def __post_init__(self) -> None:
        attempt = "lay out the guest's address space"
        for first, second in pairwise(self.ranges):
            if first.range.end > second.range.start:
                raise UsageError(attempt, f"{first} overlaps {second}", "ask for less of either")
        if len({one.slot for one in self.slots}) < len(self.slots):
            raise UsageError(attempt, "a memslot's number is given out twice")
        for slot in self.slots:
            if (slot.range.start | slot.range.end) % PAGE_SIZE:
                raise UsageError(attempt, f"the memslot of the {slot.name} has no whole pages")
            if not _is_covered(slot.range, self.ranges):
                raise UsageError(attempt, f"the memslot of the {slot.name} lies in no range")

    @classmethod
    def of(
        cls,
        memory: int,
        *,
        window: int | None = None,
        controllers: bool = False,
        acpi: bool = False,
        pci: bool = False,
        physical_address_bits: int = 0,
    ) -> AddressMap:
        """Lay out `memory` bytes of RAM and what goes with them.

        `window`: the machine is launched privately, with a shared window of that many bytes (0:
        without one). `controllers`: it has an I/O APIC and local APICs. `acpi`: tables in memory.
        `pci`: it has PCI, whose high window ends with the guest's physical addresses, which have
        that many bits (0: not known).

        Raises `UsageError` when `memory` is no multiple of a page or less than `MIN_MEMORY`, and
        for a window that overlaps its neighbour; `HostLacksError` when `memory` is more than
        `MAX_MEMORY`.
        """
        _check_size(memory)
        ram = _ram_slots(memory)
        ranges = [
            *_first_mebibyte(is_private=window is not None, acpi=acpi),
            MapRange(GpaRange(HIGH_MEMORY_START, ram[0].range.end), RangeKind.RAM, ram[0].name),
            *(MapRange(one.range, RangeKind.RAM, one.name) for one in ram[1:]),
        ]
        launch: list[MapSlot] = []
        if window is not None:
            launch = _launch_slots(window)
            ranges += (MapRange(one.range, one.kind, one.name) for one in launch)
        if controllers:
            ranges += _controllers()
        if pci:
            bits = physical_address_bits or LEAST_PHYSICAL_ADDRESS_BITS
            ranges += _pci(ram[-1].range.end, bits, is_private=window is not None)
        ranges.sort(key=lambda one: one.range.start)
        return cls(memory, tuple(ranges), (*ram, *launch))

    @cached_property
    def ram(self) -> tuple[MapSlot, ...]:
        """The memslots of RAM, ascending."""
        return tuple(one for one in self.slots if one.kind is RangeKind.RAM)

    @property
    def end(self) -> int:
        """The first GPA above all RAM."""
        return self.ram[-1].range.end

    def has(self, kind: RangeKind) -> bool:
        """Tell whether there is any range of that kind."""
        return any(one.kind is kind for one in self.ranges)

    def of_kind(self, kind: RangeKind) -> tuple[MapRange, ...]:
        """The ranges of one kind, ascending."""
        return tuple(one for one in self.ranges if one.kind is kind)

    def slot(self, kind: RangeKind) -> MapSlot:
        """The one memslot of `kind`, which is not RAM. Raises `InternalError` without one."""
        for one in self.slots:
            if one.kind is kind and kind is not RangeKind.RAM:
                return one
        raise InternalError(f"look for the memslot of the {kind.value}", "this machine has none")

    def e820(self) -> tuple[MapEntry, ...]:
        """The memory map that the guest is told, ascending; neighbours of one type are joined."""
        entries: list[MapEntry] = []
        for one in self.ranges:
            type_ = _TYPES.get(one.kind)
            if type_ is None:
                continue
            start = one.range.start
            if entries and entries[-1].type is type_ and entries[-1].range.end == start:
                start = entries.pop().range.start
            entries.append(MapEntry(GpaRange(start, one.range.end), type_))
        return tuple(entries)

    def file_offset(self, gpa: int, size: int) -> int | None:
        """Find the offset of [gpa, gpa + size) in RAM's file; None unless one slot has it all."""
        for one in self.ram:
            if one.range.contains(gpa, size):
                return one.file_offset + gpa - one.range.start
        return None

    def is_usable(self, gpa: int, size: int) -> bool:
        """Tell whether [gpa, gpa + size) lies within one range of RAM that the guest may use."""
        return any(
            one.kind is RangeKind.RAM and one.range.contains(gpa, size) for one in self.ranges
        )


def memory_below(gpa: int) -> int:
    """The most RAM, in bytes, that a machine has below `gpa`."""
    return min(gpa, HOLE_START) + max(0, gpa - HOLE_END)


def _check_size(memory: int) -> None:
    attempt = f"give the guest {memory} bytes of memory"
    if memory % PAGE_SIZE:
        raise UsageError(attempt, f"not a multiple of the page size, {PAGE_SIZE}", "round it up")
    if memory < MIN_MEMORY:
        raise UsageError(attempt, f"less than the minimum, {MIN_MEMORY >> 20} MiB", "ask for more")
    if memory > MAX_MEMORY:
        raise HostLacksError(attempt, "no x86 processor can address that", "ask for less")


def _ram_slots(memory: int) -> list[MapSlot]:
    low = GpaRange(0, min(memory, HOLE_START))
    slots = [MapSlot(SlotNumber.RAM_BELOW_4G, low, RangeKind.RAM, "ram-below-4g")]
    if memory > low.end:
        high = GpaRange(HOLE_END, HOLE_END + memory - low.end)
        slots.append(MapSlot(SlotNumber.RAM_ABOVE_4G, high, RangeKind.RAM, "ram-above-4g", low.end))
    return slots


def _first_mebibyte(*, is_private: bool, acpi: bool) -> Iterator[MapRange]:
    """Ranges below `HIGH_MEMORY_START`."""
    yield MapRange(GpaRange(0, LOW_USABLE_END), RangeKind.RAM, "real-mode memory")
    end = min(LAUNCH_TABLES, ACPI_GPA) if is_private or acpi else HIGH_MEMORY_START
    yield MapRange(GpaRange(LOW_USABLE_END, end), RangeKind.RESERVED, "EBDA, VGA window, ROMs")
    if is_private:
        launch = GpaRange(LAUNCH_TABLES, LAUNCH_END)
        yield MapRange(launch, RangeKind.RESERVED, "pages that the firmware leaves")
        end = LAUNCH_END
    if end < HIGH_MEMORY_START:
        kind = RangeKind.ACPI if acpi else RangeKind.RESERVED
        name = "ACPI tables" if acpi else "ROMs"
        yield MapRange(GpaRange(end, HIGH_MEMORY_START), kind, name)


def _launch_slots(window: int) -> list[MapSlot]:
    """The shared memory of a private launch; a window of 0 bytes is none."""
    wanted = (
        (SlotNumber.WINDOW, WINDOW_GPA, window, RangeKind.WINDOW),
        (SlotNumber.STAGING, STAGING_GPA, STAGING_MAX, RangeKind.STAGING),
        (SlotNumber.FIRMWARE, FIRMWARE_GPA, FIRMWARE_SIZE, RangeKind.FIRMWARE),
    )
    return [
        MapSlot(number, GpaRange(gpa, gpa + size), kind, kind.value)
        for number, gpa, size, kind in wanted
        if size
    ]


def _controllers() -> Iterator[MapRange]:
    for gpa, name in ((IOAPIC_GPA, "ioapic"), (LOCAL_APIC_GPA, "apic")):
        yield MapRange(GpaRange(gpa, gpa + PAGE_SIZE), RangeKind.CONTROLLER, name)


def _pci(ram_end: int, bits: int, *, is_private: bool) -> Iterator[MapRange]:
    """ECAM, and the windows for BARs: the high one as large as the address width allows.

    Private code cannot reach ECAM: KVM would have to decode its instructions.
    """
    low = GpaRange(PCI_LOW_GPA, ECAM_GPA)
    if is_private:
        low = GpaRange(PCI_LOW_BESIDE_LAUNCH_GPA, IOAPIC_GPA)
    yield MapRange(low, RangeKind.PCI_WINDOW, "low PCI window")
    if not is_private:
        ecam = GpaRange(ECAM_GPA, ECAM_GPA + ECAM_SIZE)
        yield MapRange(ecam, RangeKind.ECAM, "PCI configuration")
    top, floor = 1 << bits, max(ram_end, HOLE_END)
    if floor < top:
        # A power of two below another one: aligned to its size, and so is every BAR in it.
        size = 1 << (top - floor).bit_length() - 1
        yield MapRange(GpaRange(top - size, top), RangeKind.PCI_WINDOW, "high PCI window")


def _is_covered(wanted: GpaRange, ranges: Iterable[MapRange]) -> bool:
    """Tell whether ranges, ascending, leave nothing of `wanted` out."""
    at = wanted.start
    for one in ranges:
        if one.range.start <= at < one.range.end:
            at = one.range.end
    return at >= wanted.end
