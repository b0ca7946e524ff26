# SPDX-License-Identifier: MIT
"""Ports 0xcf8 to 0xcff: reset control, and PCI configuration where there is PCI."""

from __future__ import annotations

import pytest

from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.pci_ports import PciFunction, PciPorts


class OneFunction:
    """A configuration space with one function, 0:3.1, of 256 bytes."""

    def __init__(self) -> None:
        self.bytes = bytearray(range(256))
        self.asked: list[PciFunction] = []

    def read(self, function: PciFunction, register: int, size: int) -> int:
        self.asked.append(function)
        if function != PciFunction(0, 3, 1):
            return -1
        return int.from_bytes(self.bytes[register : register + size], "little")

    def write(self, function: PciFunction, register: int, size: int, value: int) -> None:
        if function == PciFunction(0, 3, 1):
            self.bytes[register : register + size] = value.to_bytes(size, "little")


class Pci:
    def __init__(self, space: OneFunction | None = None) -> None:
        self.resets = 0
        self.device = PciPorts(self._reset, space)
        self.bus = Bus("port", ports.PORT_SPACE_SIZE)
        for start, registers in (
            (ports.PCI_ADDRESS, self.device),
            (ports.PCI_DATA, self.device.data),
        ):
            self.bus.add(start, ports.PCI_LENGTH, registers, "PCI", width=ports.PCI_WIDTH)

    def _reset(self) -> None:
        self.resets += 1


ADDRESS = 0x8000_0000 | 3 << 11 | 1 << 8
"""Of the first register of function 0:3.1."""


@pytest.mark.parametrize("space", [None, OneFunction()], ids=["no PCI", "PCI"])
@pytest.mark.parametrize(
    ("writes", "resets", "value"),
    [
        ([0x02], 0, 2),
        ([0x02, 0x06], 1, 2),
        ([0x04], 1, 0),
        ([0x0E], 1, 2),
        ([0xFB], 0, 2),
        ([], 0, 0),
    ],
)
def test_reset_control(
    writes: list[int], resets: int, value: int, space: OneFunction | None
) -> None:
    pci = Pci(space)
    for written in writes:
        pci.bus.write(ports.RESET_CONTROL, 1, written)
    assert pci.resets == resets
    assert pci.bus.read(ports.RESET_CONTROL, 1) == value


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("value", [0x06, 0x0606_0600, 0x02])
def test_the_low_byte_of_an_access_at_reset_control_is_what_counts(size: int, value: int) -> None:
    # As on QEMU's q35; its pc takes every byte of such a write for the register, the low one too.
    pci = Pci()
    pci.bus.write(ports.RESET_CONTROL, size, value & (1 << 8 * size) - 1)
    assert pci.resets == (value & 0xFF == 0x06)
    assert pci.bus.read(ports.RESET_CONTROL, size) & 0xFF == value & 0x02


@pytest.mark.parametrize(
    ("port", "size"), [(0xCF8, 4), (0xCF8, 2), (0xCF8, 1), (0xCFA, 1), (0xCFA, 2), (0xCF7, 4)]
)
def test_what_only_covers_reset_control_resets_nothing(port: int, size: int) -> None:
    pci = Pci(OneFunction())
    before = pci.bus.read(0xCF8, 4)
    pci.bus.write(port, size, 0x0606_0606 & (1 << 8 * size) - 1)
    assert pci.resets == 0
    # Only a whole double word is an address.
    assert pci.bus.read(0xCF8, 4) == (0x0606_0606 if (port, size) == (0xCF8, 4) else before)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_without_pci_everything_but_reset_control_reads_as_ones(size: int) -> None:
    pci = Pci()
    pci.bus.write(ports.PCI_ADDRESS, 4, ADDRESS)
    for port in (0xCF8, 0xCFC):
        assert pci.bus.read(port, size) == (1 << 8 * size) - 1
        pci.bus.write(port + 4 - port % 8, size, 0)
    assert pci.bus.read(0xCFA, 2) == 0xFFFF


def test_a_function_is_found_by_its_address_and_reached_in_all_sizes() -> None:
    space = OneFunction()
    pci = Pci(space)
    bus = pci.bus
    bus.write(0xCF8, 4, ADDRESS | 0x40)
    assert bus.read(0xCF8, 4) == ADDRESS | 0x40
    assert bus.read(0xCFC, 4) == 0x4342_4140
    assert [bus.read(0xCFC + at, 1) for at in range(4)] == [0x40, 0x41, 0x42, 0x43]
    assert [bus.read(0xCFC + at, 2) for at in range(3)] == [0x4140, 0x4241, 0x4342]
    bus.write(0xCFD, 1, 0xAA)
    bus.write(0xCFE, 2, 0xCCBB)
    assert space.bytes[0x40:0x44] == bytes.fromhex("40aabbcc")
    bus.write(0xCFC, 4, 0x0403_0201)
    assert space.bytes[0x40:0x44] == bytes((1, 2, 3, 4))
    assert set(space.asked) == {PciFunction(0, 3, 1)}
    assert pci.resets == 0


@pytest.mark.parametrize("address", [ADDRESS ^ 1 << 11, ADDRESS | 5 << 16, 0x80FF_FFFC])
def test_a_function_that_is_not_there_reads_as_ones(address: int) -> None:
    space = OneFunction()
    pci = Pci(space)
    pci.bus.write(0xCF8, 4, address)
    assert pci.bus.read(0xCFC, 4) == 0xFFFF_FFFF
    pci.bus.write(0xCFC, 4, 0)
    assert space.bytes == bytes(range(256))
    function = PciFunction(address >> 16 & 0xFF, address >> 11 & 0x1F, address >> 8 & 7)
    assert space.asked == [function]


def test_nothing_is_reached_while_the_address_is_not_enabled_or_across_its_end() -> None:
    space = OneFunction()
    pci = Pci(space)
    pci.bus.write(0xCF8, 4, ADDRESS & ~(1 << 31))
    assert pci.bus.read(0xCFC, 4) == 0xFFFF_FFFF
    pci.bus.write(0xCFC, 4, 0)
    assert space.asked == []
    assert space.bytes == bytes(range(256))
    pci.bus.write(0xCF8, 4, ADDRESS)
    assert pci.device.data.read(2, 4) == 0xFFFF_FFFF
    pci.device.data.write(2, 4, 0)
    assert space.bytes == bytes(range(256))
    # The bus takes such an access apart: two bytes of the register, two of nobody's.
    assert pci.bus.read(0xCFE, 4) == 0xFFFF_0302
