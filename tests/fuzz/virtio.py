# SPDX-License-Identifier: MIT
"""Rings that say anything, and registers written in any order: `python -m tests.fuzz virtio`."""

from __future__ import annotations

import struct

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.mmio import Register, VirtioMmio
from pyvmm.devices.virtio.packed_ring import PackedRing
from pyvmm.devices.virtio.plain import PlainModel
from pyvmm.devices.virtio.rings import (
    BadChainError,
    BrokenRingError,
    QueueLayout,
    QueuePlace,
    QueuePosition,
    Ring,
    UnreadableError,
)
from pyvmm.devices.virtio.split_ring import SplitRing

from .target import Target

_PLACE = QueuePlace(4, 0, 0x100, 0x200)
_MEMORY = 0x400
_FEATURES = (
    Feature(0),
    Feature.INDIRECT,
    Feature.INDIRECT | Feature.EVENT_INDEX,
    Feature.PACKED,
    Feature.PACKED | Feature.INDIRECT,
    Feature.PACKED | Feature.INDIRECT | Feature.EVENT_INDEX,
)
_CHAINS = 32
_REGISTERS = tuple(Register)
_ACCESS = struct.Struct("<BI")


def one(data: bytes) -> None:
    """The first byte chooses between a ring in memory of the rest, and accesses to registers."""
    if not data:
        return
    choice, rest = data[0], data[1:]
    if choice & 0x80:
        registers(rest)
    else:
        ring(_FEATURES[choice % len(_FEATURES)], rest)


def ring(features: Feature, data: bytes) -> None:
    """Serve chains until there is none, or as many as a server does in one go."""
    memory = bytearray(data[:_MEMORY].ljust(_MEMORY, b"\0"))
    layout = QueueLayout(_PLACE, features)
    kind = PackedRing if layout.is_packed else SplitRing
    whole = memoryview(memory)
    views = [whole[gpa : gpa + size] for gpa, size in layout.ranges]
    made: Ring = kind(layout, views, QueuePosition())

    def table(gpa: int, length: int) -> bytes:
        if gpa + length > _MEMORY:
            raise UnreadableError("read a table", "no memory")
        return bytes(memory[gpa : gpa + length])

    for _ in range(_CHAINS):
        try:
            chain = made.next(table)
        except BrokenRingError:
            return
        except BadChainError as bad:
            chain = bad.chain
            assert not chain.readable
            assert not chain.writable
        if chain is None:
            made.ask_for_notifications(True)
            return
        buffers = chain.readable + chain.writable
        assert len(buffers) <= 1024
        assert 1 <= chain.descriptors <= _PLACE.size
        assert all(length and gpa + length <= 1 << 64 for gpa, length in buffers)
        assert sum(length for _, length in buffers) <= 1 << 32
        before = made.position
        made.ask_for_notifications(False)
        made.put_used([(chain, 7)])
        made.wants_interrupt(before)
        made.missed()
        assert layout._replace(place=_PLACE).is_possible
        if layout.is_packed:
            assert max(made.position.available, made.position.used) < _PLACE.size


def registers(data: bytes) -> None:
    """Write registers, or read them; a queue that runs is one that can be."""
    core = VirtioCore(PlainModel(42, (256, 16), 1 << 9), more=Feature.PACKED)
    device = VirtioMmio(core)
    for number, value in _ACCESS.iter_unpack(data[: len(data) // _ACCESS.size * _ACCESS.size]):
        if number < len(_REGISTERS):
            device.write(_REGISTERS[number], 4, value)
        elif number == 0xFF:
            device.reset()
        else:
            assert 0 <= device.read(value % 0x200, 1 << number % 4) < 1 << 64
        for queue in core.running_queues():
            layout = core.running(queue)
            assert layout is not None
            assert layout.is_possible
            assert layout.place.size <= core.model.queue_sizes[queue]
            assert core.features & Feature.VERSION_1
    other = VirtioMmio(VirtioCore(PlainModel(42, (256, 16), 1 << 9), more=Feature.PACKED))
    other.restore(device.save())
    assert other.save() == device.save()


def _writes(*values: tuple[Register, int]) -> bytes:
    rows = (_ACCESS.pack(_REGISTERS.index(register), value) for register, value in values)
    return b"\x80" + b"".join(rows)


_START = _writes(
    (Register.STATUS, 3),
    (Register.DRIVER_FEATURES_SELECT, 1),
    (Register.DRIVER_FEATURES, 1),
    (Register.STATUS, 11),
    (Register.DESCRIPTORS_LOW, 0x1000),
    (Register.DRIVER_LOW, 0x2000),
    (Register.DEVICE_LOW, 0x3000),
    (Register.QUEUE_READY, 1),
    (Register.STATUS, 15),
    (Register.QUEUE_NOTIFY, 0),
)


def _split(*descriptors: tuple[int, int, int, int]) -> bytes:
    table = b"".join(struct.pack("<QIHH", *one) for one in descriptors)
    return table.ljust(0x100, b"\0") + struct.pack("<HHH", 0, 1, 0)


def _packed(*descriptors: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<QIHH", *one) for one in descriptors)


_TABLE = struct.pack("<QIHHQIHH", 0x10, 8, 1, 1, 0x20, 8, 2, 0)
TARGET = Target(
    one,
    [
        _START,
        b"\0" + _split((0x10, 16, 1, 1), (0x20, 8, 3, 2), (0x30, 1, 2, 0)),
        b"\2" + (_split((0x300, 32, 4, 0)).ljust(0x300, b"\0") + _TABLE),
        b"\3" + _packed((0x10, 16, 0, 0x81), (0x20, 8, 9, 0x82)),
        b"\5" + (_packed((0x300, 32, 3, 0x84)).ljust(0x300, b"\0") + _TABLE),
    ],
    most=_MEMORY + 1,
)
