# SPDX-License-Identifier: MIT
"""Configuration spaces: what a driver reads, what it can write, and BARs as Linux sizes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.bus import Bus
from pyvmm.devices.pci.bars import Bar, BarKind
from pyvmm.devices.pci.capabilities import Capability, CapabilityId
from pyvmm.devices.pci.config_space import SIZE, Command, ConfigSpace, PciIdentity
from pyvmm.devices.pci.host_bridge import host_bridge
from pyvmm.devices.pci.segment import SLOTS, Ecam, GuardedFunction, PciSegment
from pyvmm.devices.pci_ports import PciFunction, PciPorts
from pyvmm.errors import InternalError, UsageError

IDENTITY = PciIdentity(0x1AF4, 0x1042, 0x01_00_00, 1, 0x1AF4, 0x1100)
ONES = 0xFFFF_FFFF


class Memory:
    """Registers that are never reached here."""

    def read(self, offset: int, size: int) -> int:
        raise AssertionError

    def write(self, offset: int, size: int, value: int) -> None:
        raise AssertionError


def function() -> ConfigSpace:
    bars = (
        Bar(0, BarKind.IO, 0x100, Memory(), 4),
        Bar(1, BarKind.MEMORY_32, 0x1000, Memory(), 4),
        Bar(2, BarKind.MEMORY_64, 0x2000, Memory(), 8),
    )
    capabilities = (
        Capability(CapabilityId.MSIX, bytes(10), b"\x00\xc0" + bytes(8)),
        Capability(CapabilityId.VENDOR, b"\x11" + bytes(13), bytes(14)),
        Capability(CapabilityId.VENDOR, b"\x13" + bytes(5), b"\0" + b"\xff" * 5),
    )
    space = ConfigSpace(IDENTITY, bars, capabilities, interrupt=True)
    space.place(0, 0xC000, interrupt_line=11)
    space.place(1, 0xD000_0000)
    return space


def capabilities(space: ConfigSpace) -> list[tuple[int, int]]:
    """Numbers and places of the list, as a driver walks it."""
    found: list[tuple[int, int]] = []
    at = space.read(0x34, 1) if space.read(0x06, 2) & 0x10 else 0
    while at:
        assert len(found) < 48
        found.append((space.read(at, 1), at))
        at = space.read(at + 1, 1)
    return found


def test_a_driver_finds_identity_line_and_capabilities() -> None:
    space = function()
    assert space.read(0, 4) == 0x1042_1AF4
    assert space.read(8, 4) == 0x0100_0001
    assert space.read(0x2C, 4) == 0x1100_1AF4
    assert space.read(0x0E, 1) == 0
    assert space.read(0x3C, 2) == 0x010B
    assert capabilities(space) == [(0x11, 0x40), (0x09, 0x4C), (0x09, 0x5C)]


@pytest.mark.parametrize(
    ("register", "first", "size"),
    [(0x10, 0xC001, 0x100), (0x14, 0xD000_0000, 0x1000), (0x18, 4, 0x2000)],
)
def test_bars_are_sized_as_linux_does(register: int, first: int, size: int) -> None:
    space = function()
    assert space.read(register, 4) == first
    space.write(register, 4, ONES)
    low = space.read(register, 4)
    flags = 3 if low & 1 else 15
    assert -(low & ~flags) & ONES == size
    assert low & flags == first & flags
    space.write(register, 4, first)
    assert space.read(register, 4) == first


def test_the_upper_half_of_a_64_bit_bar_and_the_roms_s_place() -> None:
    space = function()
    space.write(0x1C, 4, ONES)
    assert space.read(0x1C, 4) == ONES
    for absent in (0x20, 0x24, 0x30):
        space.write(absent, 4, ONES)
        assert space.read(absent, 4) == 0


def test_a_bar_is_decoded_where_the_command_register_says_and_nowhere_else() -> None:
    space = function()
    changes = []
    space.on_change = lambda: changes.append([(bar.number, at) for bar, at in space.placed()])
    space.write(0x04, 2, Command.IO)
    space.write(0x04, 2, Command.IO | Command.MEMORY | Command.BUS_MASTER)
    space.write(0x10, 4, 0xC100)
    space.write(0x10, 4, ONES)  # Its end would be that of the ports.
    space.write(0x10, 4, 0x1_C100)  # No port has such a number.
    space.write(0x14, 4, 0)
    space.write(0x1C, 4, 1)
    space.write(0x3C, 1, 5)
    space.write(0x06, 2, 0xFFFF)
    assert changes == [
        [(0, 0xC000)],
        [(0, 0xC000), (1, 0xD000_0000)],
        [(0, 0xC100), (1, 0xD000_0000)],
        [(1, 0xD000_0000)],
        [(1, 0xD000_0000)],
        [],
        [(2, 1 << 32)],
    ]
    assert space.bus_master
    space.reset()
    assert not space.bus_master
    assert space.read(0x10, 4) == 0xC001
    assert space.read(0x3C, 1) == 11


@pytest.mark.parametrize(
    ("register", "value", "address"),
    [
        (0x10, 0xFF00, None),
        (0x10, 0xFE00, 0xFE00),
        (0x14, ONES, None),
        (0x14, 0xFFFF_E000, 0xFFFF_E000),
    ],
)
def test_a_bar_that_ends_where_its_space_does_is_one_being_sized(
    register: int, value: int, address: int | None
) -> None:
    space = function()
    space.write(0x04, 2, Command.IO | Command.MEMORY)
    space.write(register, 4, value)
    number = (register - 0x10) // 4
    assert {bar.number: at for bar, at in space.placed()}.get(number) == address


def test_what_is_not_to_be_written_stays_and_other_functions_have_other_commands() -> None:
    space = function()
    for register in range(0, SIZE, 4):
        space.write(register, 4, ONES)
    assert space.read(0x04, 4) == 0x0010_0407
    assert capabilities(space) == [(0x11, 0x40), (0x09, 0x4C), (0x09, 0x5C)]
    assert space.read(0x40, 4) == 0xC000_4C11
    assert space.read(0x5E, 1) == 0x13
    bridge = host_bridge()
    bridge.write(0x04, 4, ONES)
    assert bridge.read(0x04, 4) == 0
    assert bridge.read(0x0A, 2) == 0x0600


accesses = st.lists(
    st.tuples(
        st.booleans(), st.integers(0, SIZE + 8), st.sampled_from((1, 2, 4)), st.integers(0, ONES)
    ),
    max_size=40,
)


@given(accesses)
def test_no_sequence_of_accesses_breaks_what_is_fixed(
    done: list[tuple[bool, int, int, int]],
) -> None:
    space = function()
    for is_write, register, size, value in done:
        if is_write:
            space.write(register, size, value & (1 << 8 * size) - 1)
        assert 0 <= space.read(register, size) < 1 << 8 * size
    assert space.read(0, 4) == 0x1042_1AF4
    assert space.read(0x08, 4) == 0x0100_0001
    assert capabilities(space) == [(0x11, 0x40), (0x09, 0x4C), (0x09, 0x5C)]
    for bar, address in space.placed():
        assert address % bar.size == 0
        assert 0 < address < bar.kind.space.size
    saved = space.save()
    other = function()
    other.restore(saved)
    assert other.save() == saved
    assert other.placed() == tuple((other.bars[bar.number], at) for bar, at in space.placed())
    assert other.command == space.command


def test_another_function_s_state_is_refused() -> None:
    saved = function().save()
    with pytest.raises(UsageError, match="register 0x0 differs"):
        host_bridge().restore(saved)


@pytest.mark.parametrize(
    "bar",
    [
        Bar(0, BarKind.IO, 2, Memory(), 4),
        Bar(0, BarKind.MEMORY_32, 24, Memory(), 4),
        Bar(6, BarKind.IO, 16, Memory(), 4),
        Bar(5, BarKind.MEMORY_64, 16, Memory(), 4),
    ],
)
def test_a_bar_that_cannot_be_is_refused(bar: Bar) -> None:
    with pytest.raises(InternalError, match="each a power of two"):
        ConfigSpace(IDENTITY, (bar,))


# -- the segment, by both ways --


def both_ways() -> tuple[PciSegment, Bus, Bus]:
    segment = PciSegment()
    segment.add(GuardedFunction("bridge", host_bridge()))
    segment.add(GuardedFunction("disk", function()))
    ports = PciPorts(lambda: None, segment)
    bus, memory = Bus("port", 0x10000), Bus("MMIO", 1 << 32)
    bus.add(0xCF8, 4, ports, "PCI", width=4)
    bus.add(0xCFC, 4, ports.data, "PCI", width=4)
    memory.add(0, 1 << 20, Ecam(segment), "ECAM", width=4)
    return segment, bus, memory


@given(
    st.integers(0, SLOTS - 1), st.integers(0, 1), st.integers(0, 255), st.sampled_from((1, 2, 4))
)
def test_ports_and_ecam_reach_the_same(slot: int, number: int, register: int, size: int) -> None:
    register -= register % size
    _, bus, memory = both_ways()
    bus.write(0xCF8, 4, 1 << 31 | slot << 11 | number << 8 | register & ~3)
    by_ports = bus.read(0xCFC + register % 4, size)
    assert by_ports == memory.read(slot << 15 | number << 12 | register, size)
    if slot > 1 or number:
        assert by_ports == (1 << 8 * size) - 1


def test_ecam_writes_and_has_nothing_behind_256_bytes() -> None:
    segment, _, memory = both_ways()
    disk = segment.function(PciFunction(0, 1, 0))
    assert disk is not None
    memory.write(1 << 15 | 4, 2, 7)
    assert disk.space.command == 7
    assert memory.read(1 << 15 | 0x100, 4) == 0
    assert memory.read(1 << 15 | 0xFFC, 8) == ONES << 32
    memory.write(1 << 15 | 0x104, 4, ONES)
    assert memory.read(2 << 15 | 0x100, 4) == ONES


def test_a_bus_has_room_for_31_devices() -> None:
    segment = PciSegment()
    for number in range(SLOTS):
        assert segment.add(GuardedFunction(str(number), host_bridge())) == number
    with pytest.raises(UsageError, match="slot 32; a bus has 31") as refused:
        segment.add(GuardedFunction("disk 31", host_bridge()))
    assert "disk 31" in str(refused.value)
