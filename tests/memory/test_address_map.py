# SPDX-License-Identifier: MIT
"""Address maps: ranges that agree with each other, for every configuration of a machine."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.boot.long_mode import PAGE_TABLES_SIZE
from pyvmm.errors import InternalError, UsageError
from pyvmm.memory import layout as gpa
from pyvmm.memory.address_map import AddressMap, MapSlot, MemoryType, RangeKind, memory_below
from pyvmm.memory.layout import GIB, MIB, GpaRange
from pyvmm.rules.abi import PAGE_SIZE

TIB = 1 << 40
EDGES = (
    2 * MIB,
    gpa.HOLE_START - PAGE_SIZE,
    gpa.HOLE_START,
    gpa.HOLE_START + PAGE_SIZE,
    4 * GIB,
    16 * TIB,
)
sizes = st.one_of(
    st.sampled_from(EDGES),
    st.integers(2 * MIB // PAGE_SIZE, 16 * TIB // PAGE_SIZE).map(lambda pages: pages * PAGE_SIZE),
    st.integers(2, 4096).map(lambda mib: mib * MIB),
)

PVH_DATA = (
    GpaRange(gpa.BOOT_GDT, gpa.BOOT_GDT + 32),
    GpaRange(gpa.PVH_START_INFO, gpa.PVH_START_INFO + PAGE_SIZE),
    GpaRange(gpa.PVH_MEMMAP, gpa.PVH_MEMMAP + 0xC00),
    GpaRange(gpa.COMMAND_LINE, gpa.COMMAND_LINE + gpa.COMMAND_LINE_MAX),
)
LINUX_DATA = (
    GpaRange(gpa.BOOT_GDT, gpa.BOOT_GDT + 40),
    GpaRange(gpa.ZERO_PAGE, gpa.ZERO_PAGE + PAGE_SIZE),
    GpaRange(gpa.BOOT_PAGE_TABLES, gpa.BOOT_PAGE_TABLES + PAGE_TABLES_SIZE),
    GpaRange(gpa.COMMAND_LINE, gpa.COMMAND_LINE + gpa.COMMAND_LINE_MAX),
)
MULTIBOOT_DATA = (
    GpaRange(gpa.BOOT_GDT, gpa.BOOT_GDT + 32),
    GpaRange(gpa.MULTIBOOT_INFO, gpa.MULTIBOOT_INFO + PAGE_SIZE),
    GpaRange(gpa.MULTIBOOT_MEMMAP, gpa.MULTIBOOT_MEMMAP + 0xC00),
    GpaRange(gpa.COMMAND_LINE, gpa.COMMAND_LINE + gpa.COMMAND_LINE_MAX),
)


@pytest.mark.parametrize(
    "ranges", [PVH_DATA, MULTIBOOT_DATA, LINUX_DATA], ids=["pvh", "multiboot", "linux"]
)
def test_boot_data_do_not_overlap_and_lie_in_low_memory(ranges: tuple[GpaRange, ...]) -> None:
    for first, second in pairwise(sorted(ranges, key=lambda range_: range_.start)):
        assert not first.overlaps(second)
    assert all(range_.end <= gpa.LOW_USABLE_END for range_ in ranges)
    assert all(range_.start >= 0x500 for range_ in ranges), "below is the BIOS data area"


@given(memory=sizes)
def test_regions_hold_all_memory_once(memory: int) -> None:
    address_map = AddressMap.of(memory)
    assert address_map.memory == memory
    assert sum(region.range.size for region in address_map.ram) == memory
    assert [region.slot for region in address_map.ram] == list(range(len(address_map.ram)))
    offset = 0
    for region in address_map.ram:
        assert region.file_offset == offset, "the backing file has no holes"
        assert region.range.start % PAGE_SIZE == region.range.size % PAGE_SIZE == 0
        assert not region.range.overlaps(GpaRange(gpa.HOLE_START, gpa.HOLE_END))
        offset += region.range.size
    assert address_map.end == max(region.range.end for region in address_map.ram)
    assert len(address_map.ram) == (1 if memory <= gpa.HOLE_START else 2)


@given(memory=sizes)
def test_memory_map_is_sorted_and_describes_the_regions(memory: int) -> None:
    address_map = AddressMap.of(memory)
    for first, second in pairwise(address_map.e820()):
        assert first.range.end <= second.range.start
    for entry in address_map.e820():
        assert entry.range.size > 0
        assert address_map.file_offset(entry.range.start, entry.range.size) is not None
    assert sum(entry.range.size for entry in address_map.e820()) == memory
    reserved = [e.range for e in address_map.e820() if e.type is MemoryType.RESERVED]
    assert reserved == [GpaRange(gpa.LOW_USABLE_END, gpa.HIGH_MEMORY_START)]


@given(memory=sizes, data=st.data())
def test_file_offset_and_usable_agree_with_a_search(memory: int, data: st.DataObject) -> None:
    address_map = AddressMap.of(memory)
    borders = sorted(
        {border for entry in address_map.e820() for border in (entry.range.start, entry.range.end)}
    )
    start = data.draw(st.sampled_from(borders)) + data.draw(st.integers(-2, 2))
    size = data.draw(st.integers(1, 4))
    span = range(start, start + size)

    def usable(byte: int) -> bool:
        return (
            0 <= byte < gpa.LOW_USABLE_END
            or gpa.HIGH_MEMORY_START <= byte < min(memory, gpa.HOLE_START)
            or gpa.HOLE_END <= byte < address_map.end
        )

    def backed(byte: int) -> bool:
        return usable(byte) or gpa.LOW_USABLE_END <= byte < gpa.HIGH_MEMORY_START

    # A span of 4 bytes never reaches from one usable range into another.
    assert address_map.is_usable(start, size) == all(usable(byte) for byte in span)
    offset = address_map.file_offset(start, size)
    assert (offset is not None) == all(backed(byte) for byte in span)
    if offset is not None:
        below = start if start < gpa.HOLE_START else start - gpa.HOLE_END + gpa.HOLE_START
        assert offset == below
        assert offset + size <= memory


@given(memory=sizes, data=st.data())
def test_memory_below_an_address_is_what_a_machine_has_there(
    memory: int, data: st.DataObject
) -> None:
    end = AddressMap.of(memory).end
    assert memory_below(end) == memory
    assert memory_below(end - 1) < memory
    assert memory_below(data.draw(st.integers(gpa.HOLE_START, gpa.HOLE_END))) == gpa.HOLE_START


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (2 * MIB + 1, "multiple of the page size"),
        (2 * MIB - PAGE_SIZE, "less than the minimum, 2 MiB"),
        (0, "less than the minimum"),
        (-PAGE_SIZE, "less than the minimum"),
    ],
)
def test_bad_sizes_are_refused(memory: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        AddressMap.of(memory)


@given(
    a=st.integers(0, 20), a_size=st.integers(0, 5), b=st.integers(0, 20), b_size=st.integers(0, 5)
)
def test_ranges_are_sets_of_bytes(a: int, a_size: int, b: int, b_size: int) -> None:
    first, second = GpaRange(a, a + a_size), GpaRange(b, b + b_size)
    bytes_of_first, bytes_of_second = set(range(a, a + a_size)), set(range(b, b + b_size))
    assert first.size == len(bytes_of_first)
    if a_size and b_size:
        assert first.overlaps(second) == bool(bytes_of_first & bytes_of_second)
        assert first.contains(b, b_size) == (bytes_of_second <= bytes_of_first)


# -- what a machine has beside RAM --


def in_words(address_map: AddressMap) -> list[str]:
    return [
        f"{one.range.start:#x} {one.range.end:#x} {one.kind.name}" for one in address_map.ranges
    ]


def test_a_plain_machine_has_ram_only() -> None:
    assert in_words(AddressMap.of(4 * GIB)) == [
        "0x0 0x9fc00 RAM",
        "0x9fc00 0x100000 RESERVED",
        "0x100000 0xc0000000 RAM",
        "0x100000000 0x140000000 RAM",
    ]


def test_a_private_launch_has_its_memory_in_the_hole() -> None:
    address_map = AddressMap.of(64 * MIB, window=2 * MIB, controllers=True)
    assert in_words(address_map) == [
        "0x0 0x9fc00 RAM",
        "0x9fc00 0xe0000 RESERVED",
        "0xe0000 0xeb000 RESERVED",
        "0xeb000 0x100000 RESERVED",
        "0x100000 0x4000000 RAM",
        "0xc0000000 0xc0200000 WINDOW",
        "0xd0000000 0xf0000000 STAGING",
        "0xfec00000 0xfec01000 CONTROLLER",
        "0xfee00000 0xfee01000 CONTROLLER",
        "0xfffe0000 0x100000000 FIRMWARE",
    ]
    slots = {one.slot: (one.kind, one.range.start) for one in address_map.slots}
    assert slots == {
        0: (RangeKind.RAM, 0),
        2: (RangeKind.WINDOW, gpa.WINDOW_GPA),
        3: (RangeKind.STAGING, gpa.STAGING_GPA),
        4: (RangeKind.FIRMWARE, gpa.FIRMWARE_GPA),
    }


def test_the_guest_is_told_the_same_by_every_machine_without_pci() -> None:
    plain = AddressMap.of(4 * GIB).e820()
    assert [(one.range.start, one.range.end, int(one.type)) for one in plain] == [
        (0, 0x9FC00, 1),
        (0x9FC00, 0x100000, 2),
        (0x100000, 0xC0000000, 1),
        (0x1_0000_0000, 0x1_4000_0000, 1),
    ]
    for window in (None, 0, 2 * MIB):
        for acpi in (False, True):
            assert (
                AddressMap.of(4 * GIB, window=window, controllers=True, acpi=acpi).e820() == plain
            )


def test_pci_has_ecam_that_is_reserved_and_two_windows() -> None:
    address_map = AddressMap.of(4 * GIB, pci=True, controllers=True, physical_address_bits=40)
    assert in_words(address_map)[3:] == [
        "0xc0000000 0xe0000000 PCI_WINDOW",
        "0xe0000000 0xe0100000 ECAM",
        "0xfec00000 0xfec01000 CONTROLLER",
        "0xfee00000 0xfee01000 CONTROLLER",
        "0x100000000 0x140000000 RAM",
        "0x8000000000 0x10000000000 PCI_WINDOW",
    ]
    told = [one.range for one in address_map.e820() if one.type is MemoryType.RESERVED]
    assert told == [
        GpaRange(gpa.LOW_USABLE_END, gpa.HIGH_MEMORY_START),
        GpaRange(gpa.ECAM_GPA, gpa.ECAM_GPA + gpa.ECAM_SIZE),
    ]
    assert not address_map.is_usable(gpa.ECAM_GPA, 1)
    assert address_map.file_offset(gpa.ECAM_GPA, 1) is None


def test_pci_beside_a_private_launch_gets_another_window_and_no_ecam() -> None:
    address_map = AddressMap.of(64 * MIB, window=gpa.WINDOW_MAX, pci=True, controllers=True)
    assert in_words(address_map)[5:-1] == [
        "0xc0000000 0xd0000000 WINDOW",
        "0xd0000000 0xf0000000 STAGING",
        "0xf0000000 0xfec00000 PCI_WINDOW",
        "0xfec00000 0xfec01000 CONTROLLER",
        "0xfee00000 0xfee01000 CONTROLLER",
        "0xfffe0000 0x100000000 FIRMWARE",
    ]


def test_acpi_tables_leave_the_firmware_its_pages() -> None:
    (alone,) = AddressMap.of(64 * MIB, acpi=True).of_kind(RangeKind.ACPI)
    assert alone.range == GpaRange(gpa.ACPI_GPA, gpa.HIGH_MEMORY_START)
    (beside,) = AddressMap.of(64 * MIB, acpi=True, window=0).of_kind(RangeKind.ACPI)
    assert beside.range == GpaRange(gpa.LAUNCH_END, gpa.HIGH_MEMORY_START)


@given(
    memory=sizes,
    window=st.one_of(st.none(), st.integers(0, gpa.WINDOW_MAX // PAGE_SIZE)),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    bits=st.sampled_from((0, 36, 39, 40, 46, 48, 52)),
)
def test_every_machine_has_ranges_and_slots_that_fit(
    memory: int, window: int | None, flags: tuple[bool, bool, bool], bits: int
) -> None:
    controllers, acpi, pci = flags
    address_map = AddressMap.of(
        memory,
        window=None if window is None else window * PAGE_SIZE,
        controllers=controllers,
        acpi=acpi,
        pci=pci,
        physical_address_bits=bits,
    )
    for first, second in pairwise(address_map.ranges):
        assert first.range.start < first.range.end <= second.range.start
    for slot in address_map.slots:
        assert slot.range.start % PAGE_SIZE == slot.range.size % PAGE_SIZE == 0
    for one in address_map.of_kind(RangeKind.PCI_WINDOW):
        if one.range.start >= gpa.HOLE_END:
            assert one.range.start >= address_map.end
            assert one.range.start % one.range.size == 0
            assert one.range.size & one.range.size - 1 == 0
            assert one.range.end == 1 << (bits or gpa.LEAST_PHYSICAL_ADDRESS_BITS)
    if not pci:
        assert address_map.e820() == AddressMap.of(memory).e820()
    assert address_map.ram == AddressMap.of(memory).ram


@pytest.mark.parametrize(
    ("window", "pci", "words"),
    [
        (
            gpa.WINDOW_MAX + PAGE_SIZE,
            False,
            "shared window at .* overlaps staging area at 0xd0000000",
        ),
        (GIB, True, "shared window at 0xc0000000..0x100000000 overlaps staging area at"),
    ],
)
def test_what_overlaps_is_refused_and_both_are_named(window: int, pci: bool, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        AddressMap.of(64 * MIB, window=window, pci=pci)


def test_a_slot_number_is_given_out_once_and_lies_in_a_range() -> None:
    one = AddressMap.of(64 * MIB)
    with pytest.raises(UsageError, match="given out twice"):
        AddressMap(one.memory, one.ranges, (*one.slots, *one.slots))
    stray = MapSlot(7, GpaRange(GIB, GIB + PAGE_SIZE), RangeKind.WINDOW, "stray")
    with pytest.raises(UsageError, match="memslot of the stray lies in no range"):
        AddressMap(one.memory, one.ranges, (*one.slots, stray))
    ragged = MapSlot(7, GpaRange(MIB, MIB + 1), RangeKind.WINDOW, "ragged")
    with pytest.raises(UsageError, match="memslot of the ragged has no whole pages"):
        AddressMap(one.memory, one.ranges, (*one.slots, ragged))
    with pytest.raises(InternalError, match="memslot of the firmware: this machine has none"):
        one.slot(RangeKind.FIRMWARE)
