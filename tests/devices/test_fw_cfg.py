# SPDX-License-Identifier: MIT
"""fw_cfg: items through the ports and by DMA, and whatever a guest may write into a descriptor."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices import ports
from pyvmm.devices.bus import Bus
from pyvmm.devices.fw_cfg import FILE_SLOTS, DmaControl, FwCfg, Item, Key, item_of, with_directory

from .guest_bytes import Memory

SIZE = 0x1000
ITEMS = with_directory(
    {
        Key.SIGNATURE: item_of(b"QEMU"),
        Key.KERNEL_DATA: Item(16, ((2, b"abc"), (8, memoryview(b"defg")))),
    },
    {"etc/one": b"1", "b": b"22"},
)


class Machine:
    """A port bus with fw_cfg on it, and `memory`."""

    def __init__(self, items: dict[int, Item] = ITEMS) -> None:
        self.memory = Memory(SIZE)
        self.bus = Bus("port", ports.PORT_SPACE_SIZE)
        fw_cfg = FwCfg(lambda: items, self.memory)
        self.bus.add(ports.FW_CFG, 2, fw_cfg.registers, "fw_cfg", width=ports.FW_CFG_WIDTH)
        self.bus.add(ports.FW_CFG_DMA, 8, fw_cfg.dma, "DMA", width=ports.FW_CFG_DMA_WIDTH)

    def item(self, key: int, size: int) -> bytes:
        self.bus.write(ports.FW_CFG, 2, key)
        return self.bus.handle_in(ports.FW_CFG + 1, 1, size)

    def start(self, gpa: int) -> None:
        """A transfer by the descriptor at `gpa`, as a guest asks for it."""
        if gpa >> 32:
            self.bus.handle_out(ports.FW_CFG_DMA, 4, 1, (gpa >> 32).to_bytes(4, "big"))
        self.bus.handle_out(ports.FW_CFG_DMA + 4, 4, 1, (gpa & 0xFFFF_FFFF).to_bytes(4, "big"))

    def transfer(self, control: int, length: int, address: int) -> int:
        """The control field afterwards."""
        self.memory.bytes[:16] = struct.pack(">IIQ", control, length, address)
        self.start(0)
        return int.from_bytes(self.memory.bytes[:4], "big")


def test_items_byte_by_byte() -> None:
    machine = Machine()
    assert machine.item(Key.SIGNATURE, 6) == b"QEMU\0\0"
    assert machine.item(Key.KERNEL_DATA, 18) == b"\0\0abc\0\0\0defg\0\0\0\0\0\0"
    assert machine.item(Key.KERNEL_DATA | 0x4000, 4) == b"\0\0ab"  # The write channel's bit.
    assert machine.item(0x3FFF, 2) == bytes(2)
    assert machine.item(Key.SIGNATURE, 1) == b"Q"
    # Both ports are data; what is wider, nothing.
    assert machine.bus.read(ports.FW_CFG, 1) == ord("E")
    assert machine.bus.read(ports.FW_CFG, 2) == 0
    machine.bus.write(ports.FW_CFG + 1, 1, 0x55)
    machine.bus.write(ports.FW_CFG, 1, 0x55)
    assert machine.bus.read(ports.FW_CFG + 1, 1) == ord("M")


def test_before_anything_is_selected_it_is_the_signature() -> None:
    assert Machine().bus.handle_in(ports.FW_CFG + 1, 1, 4) == b"QEMU"
    machine = Machine()
    assert machine.transfer(DmaControl.READ, 4, 0x100) == 0
    assert machine.memory.bytes[0x100:0x104] == b"QEMU"


def test_the_directory_is_big_endian_and_sorted() -> None:
    directory = Machine().item(Key.FILE_DIRECTORY, 4 + 64 * FILE_SLOTS)
    assert struct.unpack(">I", directory[:4]) == (2,)
    entries = [struct.unpack(">IHH56s", directory[at : at + 64]) for at in (4, 68, 132)]
    assert entries[0] == (2, 0x20, 0, b"b".ljust(56, b"\0"))
    assert entries[1] == (1, 0x21, 0, b"etc/one".ljust(56, b"\0"))
    assert entries[2] == (0, 0, 0, bytes(56))
    assert Machine().item(0x21, 2) == b"1\0"


def test_the_dma_register_is_a_signature() -> None:
    bus = Machine().bus
    assert (
        bus.handle_in(ports.FW_CFG_DMA, 4, 1) + bus.handle_in(ports.FW_CFG_DMA + 4, 4, 1)
        == b"QEMU CFG"
    )
    assert bus.handle_in(ports.FW_CFG_DMA + 5, 1, 1) == b"C"


def test_dma_selects_reads_and_skips() -> None:
    machine = Machine()
    select = Key.KERNEL_DATA << 16 | DmaControl.SELECT
    assert machine.transfer(select | DmaControl.READ, 4, 0x100) == 0
    assert machine.transfer(DmaControl.SKIP, 4, 0) == 0
    assert machine.transfer(DmaControl.READ, 12, 0x104) == 0
    # 8 bytes are left, and zeroes behind them.
    assert machine.memory.bytes[0x100:0x111] == b"\0\0abdefg" + bytes(8) + b"\xaa"
    assert machine.transfer(select, 0xFFFF_FFFF, 0) == 0  # Nothing but the selection.
    assert machine.bus.handle_in(ports.FW_CFG + 1, 1, 3) == b"\0\0a"


def test_the_upper_half_of_the_address_counts_once() -> None:
    machine = Machine()
    machine.start(1 << 32)
    assert machine.memory.bytes == b"\xaa" * SIZE
    assert machine.transfer(Key.SIGNATURE << 16 | DmaControl.SELECT, 0, 0) == 0


@pytest.mark.parametrize("size", [1, 2])
def test_narrower_writes_start_nothing(size: int) -> None:
    machine = Machine()
    machine.bus.write(ports.FW_CFG_DMA + 4, size, 0)
    assert machine.memory.calls == 0


@pytest.mark.parametrize(
    ("control", "length", "address"),
    [
        (DmaControl.READ, 4, SIZE),
        (DmaControl.READ, 4, SIZE - 2),
        (DmaControl.READ, 0xFFFF_FFFF, 0x20),
        (DmaControl.READ, 8, (1 << 64) - 4),
        (DmaControl.WRITE, 4, 0x100),
        (DmaControl.WRITE, 0xFFFF_FFFF, 0x100),
    ],
)
def test_what_cannot_be_done_is_an_error(control: int, length: int, address: int) -> None:
    machine = Machine()
    selected = Key.SIGNATURE << 16 | DmaControl.SELECT | control
    assert machine.transfer(selected, length, address) == DmaControl.ERROR
    assert machine.memory.calls < 8
    assert len(machine.memory.bytes) == SIZE


def test_a_read_and_write_at_once_is_a_read() -> None:
    machine = Machine()
    both = Key.SIGNATURE << 16 | DmaControl.SELECT | DmaControl.READ | DmaControl.WRITE
    assert machine.transfer(both, 4, 0x100) == 0
    assert machine.memory.bytes[0x100:0x104] == b"QEMU"


@pytest.mark.parametrize("gpa", [SIZE - 8, SIZE, 1 << 40, (1 << 64) - 8])
def test_a_descriptor_that_is_not_all_memory(gpa: int) -> None:
    machine = Machine()
    machine.start(gpa)
    expected = bytearray(b"\xaa" * SIZE)
    if gpa < SIZE:
        expected[gpa : gpa + 4] = b"\0\0\0\x01"
    assert machine.memory.bytes == expected


@given(
    st.integers(0, 0xFFFF_FFFF),
    st.one_of(st.integers(0, 40), st.integers(0, 0xFFFF_FFFF)),
    st.one_of(st.integers(0, SIZE + 8), st.integers(0, (1 << 64) - 1)),
    st.integers(0, 20),
)
def test_any_descriptor_is_answered_as_the_item_says(
    control: int, length: int, address: int, skipped: int
) -> None:
    machine = Machine()
    machine.bus.write(ports.FW_CFG, 2, Key.KERNEL_DATA)
    machine.bus.handle_in(ports.FW_CFG + 1, 1, skipped)
    answer = machine.transfer(control & 0xFFFF, length, address)
    assert answer in (0, DmaControl.ERROR)
    if control & DmaControl.READ and answer == 0 and not control & DmaControl.SELECT:
        item = b"\0\0abc\0\0\0defg".ljust(16, b"\0")[skipped:].ljust(SIZE, b"\0")
        if address >= 16:  # Not over its own descriptor.
            assert machine.memory.bytes[address : address + length] == item[:length]
