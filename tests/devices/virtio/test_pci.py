# SPDX-License-Identifier: MIT
"""A virtio device on PCI, as a driver sees it: capabilities, registers, interrupts, saved state."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import NO_FEATURES, DeviceStatus, Feature
from pyvmm.devices.virtio.pci import MSIX_BAR, REGISTERS_BAR, VirtioPci
from pyvmm.devices.virtio.pci_registers import ISR, LENGTH, NO_VECTOR, NOTIFY, Register
from pyvmm.errors import InternalError, UsageError
from pyvmm.hosts.interrupts import Msi

CONFIG = bytes(range(1, 13))
READY = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK
DRIVER_OK = READY | DeviceStatus.DRIVER_OK
MASTER, IO, MEMORY, NO_INTX = 4, 1, 2, 1 << 10


class Model:
    """A device with two queues and a configuration of which a byte can be written."""

    kind = 2
    features = 1 << 9
    queue_sizes: tuple[int, ...] = (8, 4)

    def __init__(self, config: bytes = CONFIG) -> None:
        self.bytes = bytearray(config)

    def config(self) -> bytes:
        return bytes(self.bytes)

    def write_config(self, offset: int, data: bytes) -> None:
        self.bytes[offset : offset + len(data)] = data

    def accept(self, features: int) -> bool:
        return True

    def reset(self) -> None:
        pass

    def save(self) -> None:
        return None

    def restore(self, value: object) -> None:
        pass


class Device:
    """A function, what its machine hears of it, and a driver's accesses to it."""

    def __init__(self, model: Model | None = None, more: Feature = NO_FEATURES) -> None:
        self.core = VirtioCore(model or Model(), more=more)
        self.pci = VirtioPci(self.core)
        self.pci.space.place(REGISTERS_BAR, 0xC100, interrupt_line=11)
        self.pci.space.place(MSIX_BAR, 0xC000_1000)
        self.line = False
        self.signalled: list[int] = []
        self.kept: set[int] = set()
        self.notified: list[int | None] = []
        self.pci.on_line = self._set_line
        self.pci.on_message = self.signalled.append
        self.pci.on_keep = self.kept.update
        self.pci.on_forget = self.kept.clear
        self.pci.msix.pending = self.kept.__contains__
        self.core.on_notify = self.notified.append
        self.read = self.pci.registers.read
        self.write = self.pci.registers.write

    def _set_line(self, up: bool) -> None:
        assert up is not self.line
        self.line = up

    def command(self, value: int) -> None:
        self.pci.space.write(0x04, 2, value)

    def start(self, features: int = 1 << 32) -> None:
        """Bring it from its reset to DRIVER_OK, with queue 0."""
        self.command(MASTER | IO | MEMORY)
        for status in (DeviceStatus.ACKNOWLEDGE, DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER):
            self.write(Register.STATUS, 1, status)
        self.write(Register.DRIVER_FEATURES_SELECT, 4, 1)
        self.write(Register.DRIVER_FEATURES, 4, features >> 32)
        self.write(Register.STATUS, 1, READY)
        assert self.read(Register.STATUS, 1) == READY
        self.write(Register.QUEUE_SELECT, 2, 0)
        for register, address in (
            (Register.QUEUE_DESCRIPTORS, 0x1_0000_1000),
            (Register.QUEUE_DRIVER, 0x2000),
            (Register.QUEUE_DEVICE, 0x3000),
        ):
            self.write(register, 4, address & 0xFFFF_FFFF)
            self.write(register + 4, 4, address >> 32)
        for value in (0, 2, 1):
            assert self.read(Register.QUEUE_ENABLE, 2) == 0
            self.write(Register.QUEUE_ENABLE, 2, value)
        assert self.read(Register.QUEUE_ENABLE, 2) == 1
        self.write(Register.STATUS, 1, DRIVER_OK)
        assert self.read(Register.STATUS, 1) == DRIVER_OK

    def use_msix(self, *vectors: int) -> None:
        for vector in vectors:
            for at, value in enumerate((0xFEE0_0000, 0, 0x40 + vector, 0)):
                self.pci.msix.write(16 * vector + 4 * at, 4, value)
        self.pci.space.write(0x42, 2, 1 << 15)


def structures(device: Device) -> dict[int, tuple[int, int, int, int]]:
    """Structures by type: their capability's place, BAR, offset and length."""
    found = {}
    space = device.pci.space
    at = space.read(0x34, 1)
    while at:
        if space.read(at, 1) == 0x09:
            kind, bar = space.read(at + 3, 1), space.read(at + 4, 1)
            found[kind] = (at, bar, space.read(at + 8, 4), space.read(at + 12, 4))
        at = space.read(at + 1, 1)
    return found


def test_a_driver_finds_every_structure_in_the_io_bar() -> None:
    device = Device()
    found = structures(device)
    assert {kind: where[1:] for kind, where in found.items() if kind != 5} == {
        1: (0, 0, 0x40),
        3: (0, 0x40, 1),
        2: (0, NOTIFY, 8),
        4: (0, 0x44, len(CONFIG)),
    }
    assert device.pci.space.read(found[2][0] + 16, 4) == 4
    assert device.pci.space.read(found[5][0] + 2, 1) == 20
    assert device.pci.space.read(0, 4) == 0x1042_1AF4
    assert device.pci.space.read(0x08, 1) >= 1
    assert device.pci.space.read(0x2E, 2) >= 0x40


def test_a_device_without_a_configuration_of_its_own_has_no_structure_for_it() -> None:
    assert sorted(structures(Device(Model(b"")))) == [1, 2, 3, 5]


def test_what_does_not_fit_into_the_bar_is_refused() -> None:
    with pytest.raises(InternalError, match="room for 32 and 60"):
        Device(Model(bytes(61)))


def test_the_driver_brings_it_up() -> None:
    device = Device()
    assert device.read(Register.QUEUES, 2) == 2
    device.start()
    layout = device.core.running(0)
    assert layout is not None
    assert layout.place == (8, 0x1_0000_1000, 0x2000, 0x3000)
    assert device.read(Register.QUEUE_DESCRIPTORS + 4, 4) == 1
    assert device.read(0x44, 4) == 0x0403_0201
    device.write(0x45, 1, 0xAA)
    assert device.read(0x44, 2) == 0xAA01
    device.notified.clear()
    device.write(NOTIFY + 4, 2, 1)
    device.write(NOTIFY, 4, 0)
    device.write(NOTIFY + 1, 2, 0)
    assert device.notified == [1, 0]


def test_what_no_driver_may_do_reads_as_0_and_is_lost() -> None:
    device = Device()
    device.start()
    for register, size in ((0x00, 2), (0x14, 2), (0x18, 4), (0x20, 2), (0x22, 4), (0x38, 2)):
        device.write(register, size, 1)
        assert device.read(register, size) == 0
    device.write(Register.QUEUE_SELECT, 2, 77)
    assert device.read(Register.QUEUE_SIZE, 2) == 0
    assert device.read(Register.QUEUE_ENABLE, 2) == 0
    assert device.read(Register.QUEUE_VECTOR, 2) == NO_VECTOR
    assert device.read(Register.QUEUE_DESCRIPTORS, 4) == 0
    for register in (Register.QUEUE_SIZE, Register.QUEUE_VECTOR, Register.QUEUE_ENABLE):
        device.write(register, 2, 1)
    device.write(Register.QUEUE_DESCRIPTORS, 4, 1)
    device.write(Register.DEVICE_FEATURES_SELECT, 4, 0xFFFF_FFFF)
    assert device.read(Register.DEVICE_FEATURES, 4) == 0
    assert device.read(Register.STATUS, 1) == DRIVER_OK


def test_the_line_is_up_until_the_isr_status_is_read() -> None:
    device = Device()
    device.start()
    device.core.interrupt(0)
    assert device.line
    assert device.pci.space.read(0x06, 1) & 8
    device.core.interrupt(None)
    assert device.read(ISR, 1) == 3
    assert not device.line
    assert not device.pci.space.read(0x06, 1) & 8
    assert device.read(ISR, 1) == 0


def test_a_line_that_the_driver_turns_off_shows_in_the_status_only() -> None:
    device = Device()
    device.start()
    device.command(MASTER | IO | NO_INTX)
    device.core.interrupt(0)
    assert not device.line
    assert device.pci.space.read(0x06, 1) & 8
    device.command(MASTER | IO)
    assert device.line
    device.write(Register.STATUS, 1, 0)
    assert not device.line


def test_messages_go_to_the_vectors_that_the_driver_chose_and_no_line_is_raised() -> None:
    device = Device()
    device.use_msix(0, 1, 2)
    device.start()
    device.write(Register.CONFIG_VECTOR, 2, 0)
    device.write(Register.QUEUE_VECTOR, 2, 2)
    device.write(Register.QUEUE_SELECT, 2, 1)
    device.write(Register.QUEUE_VECTOR, 2, 3)
    assert device.read(Register.QUEUE_VECTOR, 2) == NO_VECTOR
    device.core.interrupt(0)
    device.core.interrupt(1)
    device.core.interrupt(None)
    assert device.signalled == [2, 0]
    assert not device.line
    assert device.read(ISR, 1) == 2


def test_msix_that_is_turned_on_lowers_the_line() -> None:
    device = Device()
    device.start()
    device.core.interrupt(0)
    device.use_msix(0)
    assert not device.line
    device.pci.space.write(0x42, 2, 0)
    assert device.line


def test_without_bus_mastering_there_is_no_dma() -> None:
    device = Device()
    device.start()
    device.notified.clear()
    device.command(IO)
    assert device.core.running(0) is None
    device.command(IO | MASTER)
    assert device.core.running(0) is not None
    assert 0 in device.notified


def access(device: Device, bar: int, offset: int, length: int) -> int:
    """Choose an access by configuration space; the data's place is returned."""
    at = structures(device)[5][0]
    device.pci.space.write(at + 4, 1, bar)
    device.pci.space.write(at + 8, 4, offset)
    device.pci.space.write(at + 12, 4, length)
    return at + 16


def test_both_bars_are_reached_by_configuration_space_with_decoding_off() -> None:
    device = Device()
    data = access(device, REGISTERS_BAR, Register.STATUS, 1)
    device.pci.space.write(data, 1, 1)
    assert device.pci.space.read(data, 1) == 1
    data = access(device, MSIX_BAR, 8, 4)
    device.pci.space.write(data, 4, 0x1234)
    assert device.pci.msix.read(8, 4) == 0x1234
    assert device.pci.space.read(data, 4) == 0x1234


@pytest.mark.parametrize(
    ("bar", "offset", "length"),
    [(2, 0, 4), (255, 0, 4), (0, LENGTH, 1), (0, 0, 3), (0, 0, 8), (0, 1, 4), (1, 2**32 - 4, 4)],
)
def test_an_access_by_configuration_space_that_reaches_no_bar_does_nothing(
    bar: int, offset: int, length: int
) -> None:
    device = Device()
    data = access(device, bar, offset, length)
    device.pci.space.write(data, 4, 0x8765)
    assert device.pci.space.read(data, 4) == 0x8765
    assert device.read(Register.STATUS, 1) == 0
    assert device.read(Register.DEVICE_FEATURES_SELECT, 4) == 0


def driven() -> Device:
    device = Device()
    device.use_msix(0, 2)
    device.start()
    device.write(Register.QUEUE_VECTOR, 2, 2)
    device.write(Register.CONFIG_VECTOR, 2, 0)
    device.core.interrupt(None)
    device.kept.add(1)
    device.pci.space.write(0x10, 4, 0xC200)
    return device


def test_it_is_saved_and_restored_twice() -> None:
    device = driven()
    saved = device.pci.save()
    other = Device()
    sending: dict[int, Msi] = {}
    other.pci.msix.on_vectors = lambda changes: sending.update(
        {one.vector: one.msi for one in changes if not one.masked}
    )
    for _ in range(2):
        other.pci.restore(saved)
        assert other.pci.save() == saved
        assert other.kept == {1}
    assert sending == {0: Msi(0xFEE0_0000, 0x40), 2: Msi(0xFEE0_0000, 0x42)}
    assert other.pci.address() == 0xC200
    other.core.interrupt(0)
    assert other.signalled == [2]


def test_a_line_that_was_up_is_raised_by_each_restoring() -> None:
    device = Device()
    device.start()
    device.core.interrupt(0)
    saved = device.pci.save()
    other = Device()
    levels: list[bool] = []
    other.pci.on_line = levels.append
    other.pci.restore(saved)
    other.pci.restore(saved)
    assert levels == [True, False, True]


def test_another_device_s_state_is_refused() -> None:
    class OneQueue(Model):
        queue_sizes = (8,)

    with pytest.raises(UsageError, match="2 queues, and the one that was saved 1"):
        Device().pci.restore(Device(OneQueue()).pci.save())


def test_numbers_that_no_register_has_room_for_are_no_saved_state() -> None:
    saved = Device().pci.save()
    first, *others = saved.core.queues
    large = replace(first, place=first.place._replace(size=1 << 16))
    core = replace(saved.core, queues=(large, *others))
    with pytest.raises(UsageError, match="such core"):
        replace(saved, core=core)
    with pytest.raises(UsageError, match="such selects"):
        replace(saved, selects=(0, 0, 1 << 16))


def test_a_reset_leaves_nothing_of_it() -> None:
    device = driven()
    device.pci.reset()
    assert device.pci.save() == Device().pci.save()
    assert not device.line
    assert device.pci.address() is None


def test_a_driver_s_reset_keeps_what_is_pci_s() -> None:
    device = driven()
    device.write(Register.STATUS, 1, 0)
    assert device.read(Register.STATUS, 1) == 0
    assert device.read(Register.CONFIG_VECTOR, 2) == NO_VECTOR
    assert device.read(ISR, 1) == 0
    assert device.pci.msix.enabled
    assert device.pci.address() == 0xC200


parts: tuple[Callable[[Device], tuple[Callable[..., int], Callable[..., None]]], ...] = (
    lambda device: (device.pci.space.read, device.pci.space.write),
    lambda device: (device.read, device.write),
    lambda device: (device.pci.msix.read, device.pci.msix.write),
)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.booleans(), st.integers(0, 0x110), st.sampled_from((1, 2, 4)),
            st.one_of(st.integers(0, 15), st.integers(0, 0xFFFF_FFFF)),
        ),
        max_size=60,
    )
)  # fmt: skip
def test_a_hostile_driver_gets_numbers_and_never_a_traceback(
    accesses: list[tuple[int, bool, int, int, int]],
) -> None:
    device = Device()
    device.start()
    for part, is_write, offset, size, value in accesses:
        read, write = parts[part](device)
        if is_write:
            write(offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= read(offset, size) < 1 << 8 * size
        device.core.interrupt(value % 2)
    saved = device.pci.save()
    other = Device()
    other.pci.restore(saved)
    assert other.pci.save() == saved
    assert struct.pack("<I", other.pci.space.read(0, 4)) == b"\xf4\x1a\x42\x10"
