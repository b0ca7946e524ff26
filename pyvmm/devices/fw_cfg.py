# SPDX-License-Identifier: MIT
"""fw_cfg: what QEMU tells firmware and guests about their machine (QEMU docs/specs/fw_cfg.rst).

Port 0x510 selects an item, port 0x511 gives its bytes one by one, and at 0x514 is the address of a
descriptor in guest memory for whole transfers. Items cannot be written.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from pyvmm.devices.saved_values import SavedFwCfg

SIGNATURE: Final = b"QEMU"
DMA_SIGNATURE: Final = b"QEMU CFG"
"""Value that the DMA address register reads as."""
FILE_SLOTS: Final = 0x20
"""Files that the directory has room for."""
FILE_NAME_MAX: Final = 55
"""Bytes of a file's name without the zero byte that ends it."""

_FIRST_FILE: Final = 0x20
_WRITE_CHANNEL: Final = 0x4000
_DESCRIPTOR: Final = struct.Struct(">IIQ")
_CONTROL: Final = struct.Struct(">I")
_FILE: Final = struct.Struct(">IHH56s")


class Key(enum.IntEnum):
    """Items that have a number of their own (QEMU include/standard-headers/linux/qemu_fw_cfg.h).

    Integers in them are little endian.
    """

    SIGNATURE = 0x00
    ID = 0x01
    """Bit 0: the ports are there; bit 1: so is DMA."""
    UUID = 0x02
    RAM_SIZE = 0x03
    """Bytes, 8 of them."""
    NOGRAPHIC = 0x04
    CPUS = 0x05
    """2 bytes."""
    KERNEL_ADDRESS = 0x07
    KERNEL_SIZE = 0x08
    INITRD_ADDRESS = 0x0A
    INITRD_SIZE = 0x0B
    BOOT_MENU = 0x0E
    MAX_CPUS = 0x0F
    """2 bytes."""
    KERNEL_ENTRY = 0x10
    KERNEL_DATA = 0x11
    INITRD_DATA = 0x12
    COMMAND_LINE_SIZE = 0x14
    """Of `COMMAND_LINE`, its zero byte included."""
    COMMAND_LINE = 0x15
    FILE_DIRECTORY = 0x19
    IRQ0_OVERRIDE = 0x8002
    """The timer's interrupt is pin 2 of the I/O APIC."""


class DmaControl(enum.IntFlag):
    """Bits of a descriptor's control field; the upper 16 bits are the key for `SELECT`."""

    ERROR = 1 << 0
    READ = 1 << 1
    SKIP = 1 << 2
    SELECT = 1 << 3
    WRITE = 1 << 4


class HeldBytes(Protocol):
    """A range of guest memory that is the device's until the block ends; offsets in bytes."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Copy `data` to `offset`, all within the range."""
        ...

    def clear(self, offset: int, size: int) -> None:
        """Make [offset, offset + size), all within the range, zero."""
        ...


class GuestBytes(Protocol):
    """Guest memory as a device reaches it. GPAs and sizes in bytes, of any value, none of them 0.

    Nothing is raised, nor touched, where not all of it is memory that the guest shares.
    """

    def read(self, gpa: int, size: int) -> bytes | None:
        """A copy of `size` bytes; None unless all of it is shared memory. `size` is small."""
        ...

    def write(self, gpa: int, data: bytes | memoryview) -> bool:
        """Write all of `data`, or nothing: then False."""
        ...

    def held(self, gpa: int, size: int) -> AbstractContextManager[HeldBytes | None]:
        """Hold [gpa, gpa + size) inside of the block; None unless all of it is shared memory."""
        ...


class Item(NamedTuple):
    """An item's bytes: `pieces` by their offset, ascending; zeroes between and up to `size`."""

    size: int
    pieces: Sequence[tuple[int, bytes | memoryview]]

    def byte(self, offset: int) -> int:
        """The byte at `offset`, below `size`."""
        for start, piece in self.pieces:
            if start <= offset < start + len(piece):
                return piece[offset - start]
        return 0


def item_of(data: bytes | memoryview) -> Item:
    """An item in one piece."""
    return Item(len(data), ((0, data),))


def with_directory(
    items: Mapping[int, Item], files: Mapping[str, bytes | memoryview]
) -> dict[int, Item]:
    """`items`, the files, and their directory, which is sorted by name.

    At most `FILE_SLOTS` files, ASCII names of at most `FILE_NAME_MAX` bytes.
    """
    directory = len(files).to_bytes(4, "big")
    found = dict(items)
    for number, (name, data) in enumerate(sorted(files.items())):
        key = _FIRST_FILE + number
        directory += _FILE.pack(len(data), key, 0, name.encode("ascii"))
        found[key] = item_of(data)
    found[Key.FILE_DIRECTORY] = Item(4 + FILE_SLOTS * _FILE.size, ((0, directory),))
    return found


class FwCfg:
    """The items and where a guest is in one of them. `items` is asked for them once, when needed.

    `registers` is for the two ports from 0x510 on, `dma` for the eight from 0x514 on.
    """

    def __init__(self, items: Callable[[], Mapping[int, Item]], memory: GuestBytes) -> None:
        self._make_items = items
        self._items: Mapping[int, Item] | None = None
        self._memory = memory
        self._key: int | None = None
        self._selected: Item | None = None
        self._offset = 0
        self.registers = FwCfgRegisters(self)
        self.dma = FwCfgDma(self)

    def reset(self) -> None:
        """Nothing is selected; the items stay."""
        self._key = self._selected = None
        self._offset = self.dma.upper = 0

    def save(self) -> SavedFwCfg:
        """The guest's place in the items, not the items."""
        from pyvmm.devices.saved_values import SavedFwCfg

        return SavedFwCfg(self._key, self._offset, self.dma.upper)

    def restore(self, value: SavedFwCfg) -> None:
        """Go to that place in these items."""
        self.reset()
        if value.key is not None:
            self.select(value.key)
        self._offset, self.dma.upper = value.offset, value.upper

    def select(self, key: int) -> None:
        """Begin with the item `key` (16 bits); one that there is not has no bytes."""
        if self._items is None:
            self._items = self._make_items()
        self._key = key
        self._selected = self._items.get(key & ~_WRITE_CHANNEL)
        self._offset = 0

    def next_byte(self) -> int:
        """The selected item's next byte; 0 behind its end."""
        if self._key is None:
            self.select(Key.SIGNATURE)
        item, offset = self._selected, self._offset
        if item is None or offset >= item.size:
            return 0
        self._offset += 1
        return item.byte(offset)

    def transfer(self, descriptor: int) -> None:
        """Do what the descriptor at the GPA `descriptor` asks, and answer in its control field.

        It is copied once: what the guest writes there afterwards changes nothing.
        """
        raw = self._memory.read(descriptor, _DESCRIPTOR.size)
        if raw is None:
            self._memory.write(descriptor, _CONTROL.pack(DmaControl.ERROR))
            return
        control, length, address = _DESCRIPTOR.unpack(raw)
        if control & DmaControl.SELECT:
            self.select(control >> 16)
        elif self._key is None:
            self.select(Key.SIGNATURE)
        done = True
        if control & DmaControl.READ:
            done = self._copy(address, length)
        elif control & DmaControl.WRITE:
            done = length == 0  # No item is writable.
        elif control & DmaControl.SKIP:
            self._advance(length)
        self._memory.write(descriptor, _CONTROL.pack(0 if done else DmaControl.ERROR))

    def _advance(self, length: int) -> int:
        """Go on by at most `length` bytes of the item; by how many."""
        left = 0 if self._selected is None else self._selected.size - self._offset
        step = min(length, left)
        self._offset += step
        return step

    def _copy(self, address: int, length: int) -> bool:
        """The item's next `length` bytes to the GPA `address`, zeroes behind; all or none."""
        start = self._offset
        end = start + self._advance(length)
        if not length:
            return True
        with self._memory.held(address, length) as held:
            if held is None:
                return False
            self._fill(held, start, end, length)
        return True

    def _fill(self, held: HeldBytes, start: int, end: int, length: int) -> None:
        """The item's bytes from `start` to `end`, and zeroes up to `length`."""
        at = start
        for first, piece in self._selected.pieces if self._selected is not None else ():
            low, high = max(first, at), min(first + len(piece), end)
            if low >= high:
                continue
            if low > at:
                held.clear(at - start, low - at)
            held.write(low - start, memoryview(piece)[low - first : high - first])
            at = high
        if start + length > at:
            held.clear(at - start, start + length - at)


class FwCfgRegisters:
    """Selector and data, which overlap: a 16-bit write selects, a single byte is read."""

    def __init__(self, fw_cfg: FwCfg) -> None:
        self._fw_cfg = fw_cfg

    def read(self, offset: int, size: int) -> int:
        """The next byte of the item, at either port; wider reads give 0 and take nothing."""
        del offset
        return self._fw_cfg.next_byte() if size == 1 else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Select an item. Writes of single bytes were data once, and are nothing since QEMU 2.4."""
        if offset == 0 and size == 2:
            self._fw_cfg.select(value)


class FwCfgDma:
    """The descriptor's address, big endian: a write of its lower half starts the transfer."""

    def __init__(self, fw_cfg: FwCfg) -> None:
        self._fw_cfg = fw_cfg
        self.upper = 0
        """Upper half of the address, until the lower one comes."""

    def read(self, offset: int, size: int) -> int:
        """A signature, `DMA_SIGNATURE`."""
        return int.from_bytes(DMA_SIGNATURE[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Half of the address, 32 bits; other sizes are nothing."""
        if size == 8 and offset == 0:
            self._fw_cfg.transfer(int.from_bytes(value.to_bytes(8, "little"), "big"))
        if size != 4:
            return
        half = int.from_bytes(value.to_bytes(4, "little"), "big")
        if offset == 0:
            self.upper = half
        elif offset == 4:
            upper, self.upper = self.upper, 0
            self._fw_cfg.transfer(upper << 32 | half)
