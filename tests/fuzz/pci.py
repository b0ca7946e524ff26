# SPDX-License-Identifier: MIT
"""A PCI bus with two virtio devices: a hostile guest's accesses, by every way that there is."""

from __future__ import annotations

import struct
from functools import partial

from pyvmm.devices.bus import Bus
from pyvmm.devices.pci.bars import BarKind
from pyvmm.devices.pci.segment import Ecam, GuardedFunction, PciSegment
from pyvmm.devices.pci_ports import PciPorts
from pyvmm.devices.placement import Space
from pyvmm.devices.virtio.pci_registers import Register
from pyvmm.machine.pci.windows import BarWindows
from tests.devices.virtio.test_pci import Device

from .target import Target

_STEP = struct.Struct("<BBHI")
_ECAM = 0xE000_0000


class _Guest:
    """Accesses to ports and memory, as a guest makes them."""

    def __init__(self) -> None:
        self.devices = [Device() for _ in range(2)]
        self.ports, self.memory = Bus("port", 0x10000), Bus("MMIO", 1 << 64)
        segment = PciSegment()
        ports = PciPorts(lambda: None, segment)
        self.ports.add(0xCF8, 4, ports, "address", width=4)
        self.ports.add(0xCFC, 4, ports.data, "data", width=4)
        self.memory.add(_ECAM, 1 << 20, Ecam(segment), "ECAM", width=4)
        windows = BarWindows()
        windows.attach({Space.PORT: self.ports, Space.MMIO: self.memory}, ())
        self.functions = []
        for number, device in enumerate(self.devices):
            function = GuardedFunction(f"device {number}", device.pci.space)
            segment.add(function)
            device.pci.on_place = partial(windows.update, function)
            self.functions.append(function)

    def do(self, what: int, shape: int, where: int, value: int) -> None:
        """One access or event; what is read is a number of its size."""
        size = 1 << shape % 3
        value &= (1 << 8 * size) - 1
        device = self.devices[shape >> 7]
        match what % 7:
            case 0:
                self.ports.write(where, size, value)
            case 1:
                assert 0 <= self.ports.read(where, size) < 1 << 8 * size
            case 2:
                self.memory.write(_ECAM + where, size, value)
            case 3:
                assert 0 <= self.memory.read(0xC000_0000 + where, 8) < 1 << 64
            case 4:
                self.memory.write(0xC000_0000 + where, size, value)
            case 5:
                device.core.interrupt(where % 2 if where < 4 else None)
            case _:
                saved = device.pci.save()
                device.pci.restore(saved)
                assert device.pci.save() == saved


def one(data: bytes) -> None:
    """Each 8 bytes are a step: what, its shape, where, a value."""
    guest = _Guest()
    for what, shape, where, value in _STEP.iter_unpack(data[: len(data) // 8 * 8]):
        guest.do(what, shape, where, value)
    for function in guest.functions:
        assert function.space.read(0, 4) == 0x1042_1AF4
        for bar, address in function.space.placed():
            limit = bar.kind.space.size if bar.kind is BarKind.IO else 1 << 32
            assert 0 < address < limit - bar.size


def _steps(*steps: tuple[int, int, int, int]) -> bytes:
    return b"".join(_STEP.pack(*step) for step in steps)


def _config(
    slot: int, register: int, value: int, shape: int = 2
) -> list[tuple[int, int, int, int]]:
    address = 1 << 31 | slot << 11 | register & ~3
    return [(0, 2, 0xCF8, address), (0, shape, 0xCFC + register % 4, value)]


_DECODED = [*_config(0, 4, 7, 1), *_config(1, 0x10, 0xC200), *_config(1, 4, 7, 1)]
_BASE = 0xC100
_STARTED = [
    *((0, 0, _BASE + Register.STATUS, status) for status in (1, 3)),
    (0, 2, _BASE + Register.DRIVER_FEATURES_SELECT, 1),
    (0, 2, _BASE + Register.DRIVER_FEATURES, 1),
    (0, 0, _BASE + Register.STATUS, 11),
    (0, 2, _BASE + Register.QUEUE_DESCRIPTORS, 0x1000),
    (0, 2, _BASE + Register.QUEUE_DRIVER, 0x2000),
    (0, 2, _BASE + Register.QUEUE_DEVICE, 0x3000),
    (0, 1, _BASE + Register.QUEUE_VECTOR, 1),
    (0, 1, _BASE + Register.QUEUE_ENABLE, 1),
    (0, 0, _BASE + Register.STATUS, 15),
]
_MESSAGES = [
    *((4, 2, 0x1000 + at, value) for at, value in ((16, 0xFEE0_0000), (24, 0x41), (28, 0))),
    *_config(0, 0x40, 0x8000_0000),
]

TARGET = Target(
    one,
    [
        _steps(*_DECODED),
        _steps(*_DECODED, *_STARTED, (5, 0, 0, 0), (1, 0, _BASE + 0x40, 0)),
        _steps(*_DECODED, *_MESSAGES, *_STARTED, (5, 0, 0, 0), (6, 0, 0, 0), (3, 0, 0x1800, 0)),
        _steps(*_config(0, 0x10, 0xFFFF_FFFF), *_DECODED, (2, 2, 0x10, 0xC200), (6, 0x80, 0, 0)),
    ],
    most=1 << 12,
)
INSTRUMENTED = (
    "pyvmm.devices.pci",
    "pyvmm.devices.virtio.pci",
    "pyvmm.devices.virtio.pci_registers",
    "pyvmm.machine.pci.windows",
)
