# SPDX-License-Identifier: MIT
"""Registers of a virtio device, in the order in which a driver must use them, and in any other."""

from __future__ import annotations

import pytest

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import NO_FEATURES, Feature
from pyvmm.devices.virtio.mmio import Register, VirtioMmio
from pyvmm.devices.virtio.rings import QueuePlace
from pyvmm.memory.layout import VIRTIO_GPA
from tests.devices.virtio.a_model import PlainModel
from tests.guest.building import defines

FLUSH = 1 << 9
DRIVER, FEATURES_OK, DRIVER_OK, NEEDS_RESET = 3, 11, 15, 0x40
PLACE = QueuePlace(16, 0x1_0000_1000, 0x2000, 0x3000)


def test_the_guest_knows_the_same_registers() -> None:
    assert defines("virtio.h")["VIRTIO_GPA"] == VIRTIO_GPA
    names = defines("../lib/virtio.c")
    for register in Register:
        if f"REG_{register.name}" in names:
            assert names[f"REG_{register.name}"] == register, register
    assert names["REG_QUEUE_DESCRIPTORS"] == Register.DESCRIPTORS_LOW
    assert names["REG_QUEUE_DRIVER"] == Register.DRIVER_LOW
    assert names["REG_QUEUE_DEVICE"] == Register.DEVICE_LOW


class Driver:
    """A driver's accesses to a device of one queue."""

    def __init__(self, more: Feature = NO_FEATURES) -> None:
        model = PlainModel(kind=2, features=FLUSH, queue_sizes=(256,))
        self.core = VirtioCore(model, more=more)
        self.device = VirtioMmio(self.core)
        self.levels: list[bool] = []
        self.device.on_line = self.levels.append

    def read(self, register: int, size: int = 4) -> int:
        return self.device.read(register, size)

    def write(self, register: int, value: int, size: int = 4) -> None:
        self.device.write(register, size, value)

    @property
    def status(self) -> int:
        return self.read(Register.STATUS)

    def negotiate(self, features: int = 1 << 32) -> None:
        self.write(Register.STATUS, DRIVER)
        for select in (0, 1):
            self.write(Register.DRIVER_FEATURES_SELECT, select)
            self.write(Register.DRIVER_FEATURES, features >> 32 * select & 0xFFFF_FFFF)
        self.write(Register.STATUS, FEATURES_OK)

    def place(self, place: QueuePlace = PLACE) -> None:
        self.write(Register.QUEUE_SIZE, place.size)
        for low, gpa in (
            (Register.DESCRIPTORS_LOW, place.descriptors),
            (Register.DRIVER_LOW, place.driver),
            (Register.DEVICE_LOW, place.device),
        ):
            self.write(low, gpa & 0xFFFF_FFFF)
            self.write(low + 4, gpa >> 32)

    def start(self) -> None:
        self.negotiate()
        self.place()
        self.write(Register.QUEUE_READY, 1)
        self.write(Register.STATUS, DRIVER_OK)


def test_a_device_is_found() -> None:
    driver = Driver()
    found = [driver.read(register) for register in (0, 4, 8)]
    assert found == [0x74726976, 2, 2]
    features = []
    for select in (0, 1, 2, 0xFFFF_FFFF):
        driver.write(Register.DEVICE_FEATURES_SELECT, select)
        features.append(driver.read(Register.DEVICE_FEATURES))
    assert features == [FLUSH | 3 << 28, 1, 0, 0]
    assert driver.read(0x100) == 0x03020100
    assert driver.read(0x101, 1) == 1
    assert driver.read(0x10E, 8) == 0x0F0E
    assert driver.read(0x1F8, 8) == 0


def test_a_queue_is_set_up_as_a_whole() -> None:
    driver = Driver()
    driver.start()
    layout = driver.core.running(0)
    assert layout is not None
    assert layout.place == PLACE
    assert driver.status == DRIVER_OK


@pytest.mark.parametrize(
    ("features", "accepted"),
    [(1 << 32, True), (1 << 32 | FLUSH, True), (0, False), (1 << 32 | 1 << 5, False),
     (1 << 33 | 1 << 32, False)],
)  # fmt: skip
def test_features_are_accepted_or_not(features: int, accepted: bool) -> None:
    driver = Driver()
    driver.negotiate(features)
    assert driver.status == (FEATURES_OK if accepted else DRIVER)
    driver.write(Register.STATUS, DRIVER_OK)
    assert driver.status == (DRIVER_OK if accepted else DRIVER)


def test_queue_registers_are_taken_between_features_ok_and_driver_ok_only() -> None:
    driver = Driver()
    driver.place()
    driver.write(Register.QUEUE_READY, 1)
    assert driver.read(Register.QUEUE_READY) == 0
    driver.start()
    for again in (QueuePlace(32, 0, 0, 0), QueuePlace(3, 1, 1, 1)):
        driver.place(again)
    driver.write(Register.QUEUE_READY, 0)
    layout = driver.core.running(0)
    assert layout is not None
    assert layout.place == PLACE


def test_a_ready_queue_stays_as_it_is() -> None:
    driver = Driver()
    driver.negotiate()
    driver.place()
    driver.write(Register.QUEUE_READY, 1)
    driver.place(QueuePlace(32, 0, 0, 0))
    driver.write(Register.STATUS, DRIVER_OK)
    layout = driver.core.running(0)
    assert layout is not None
    assert layout.place == PLACE


@pytest.mark.parametrize(
    "place", [PLACE._replace(size=3), PLACE._replace(size=512), PLACE._replace(device=0x3001)]
)
def test_a_queue_that_cannot_be_needs_a_reset(place: QueuePlace) -> None:
    driver = Driver()
    driver.negotiate()
    driver.place(place)
    driver.write(Register.QUEUE_READY, 1)
    assert driver.read(Register.QUEUE_READY) == 0
    driver.write(Register.STATUS, DRIVER_OK)
    assert driver.status == DRIVER_OK | NEEDS_RESET
    assert driver.core.running(0) is None
    driver.write(Register.STATUS, 0)
    assert driver.status == 0


@pytest.mark.parametrize("select", [1, 0xFFFF_FFFF])
def test_a_queue_that_is_not_there_has_no_size_and_takes_nothing(select: int) -> None:
    driver = Driver()
    driver.negotiate()
    driver.write(Register.QUEUE_SELECT, select)
    driver.place()
    driver.write(Register.QUEUE_READY, 1)
    assert driver.read(Register.QUEUE_SIZE_MAX) == driver.read(Register.QUEUE_READY) == 0
    assert driver.status == FEATURES_OK


def test_a_reason_stays_until_it_is_acknowledged() -> None:
    driver = Driver()
    driver.start()
    driver.core.interrupt(0)
    driver.core.fail()
    assert (driver.levels, driver.read(Register.INTERRUPT_STATUS)) == ([True], 3)
    driver.write(Register.INTERRUPT_ACK, 1)
    assert (driver.levels, driver.read(Register.INTERRUPT_STATUS)) == ([True], 2)
    driver.write(Register.INTERRUPT_ACK, 0xFFFF_FFFF)
    assert (driver.levels, driver.read(Register.INTERRUPT_STATUS)) == ([True, False], 0)


def test_a_changed_configuration_has_another_generation() -> None:
    driver = Driver()
    driver.start()
    assert driver.read(Register.CONFIG_GENERATION) == 0
    driver.core.config_changed()
    assert driver.read(Register.CONFIG_GENERATION) == 1
    assert driver.read(Register.INTERRUPT_STATUS) == 2


def test_configuration_is_written_by_any_bytes() -> None:
    driver = Driver()
    driver.write(0x103, 0xAB, 1)
    driver.write(0x104, 0x0102_0304_0506_0708, 8)
    assert driver.read(0x100, 4) == 0xAB02_0100
    assert driver.read(0x104, 8) == 0x0102_0304_0506_0708


@pytest.mark.parametrize(
    ("features", "value", "told"),
    [(1 << 32, 0, [0]), (1 << 32, 0x8001_0000, []), (1 << 38 | 1 << 32, 0x8001_0000, [0])],
)
def test_a_notification_may_have_data(features: int, value: int, told: list[int]) -> None:
    driver = Driver(more=Feature.NOTIFICATION_DATA)
    driver.negotiate(features)
    driver.write(Register.STATUS, DRIVER_OK)
    queues: list[int] = []
    driver.core.on_notify = queues.append
    driver.write(Register.QUEUE_NOTIFY, value)
    assert queues == told


def test_status_0_forgets_everything() -> None:
    driver, new = Driver(), Driver()
    driver.start()
    driver.write(Register.QUEUE_SELECT, 5)
    driver.write(Register.DEVICE_FEATURES_SELECT, 1)
    driver.core.interrupt(0)
    driver.write(Register.STATUS, 0)
    assert driver.levels == [True, False]
    assert driver.device.save() == new.device.save()
    driver.start()
    assert driver.core.running(0) is not None


def test_a_reset_is_over_when_what_is_under_way_has_ended() -> None:
    driver = Driver()
    driver.start()
    epoch = driver.core.begin(0)
    driver.write(Register.STATUS, 0)
    assert driver.status == DRIVER_OK
    driver.write(Register.STATUS, DRIVER)
    assert driver.core.is_resetting
    assert driver.core.epoch != epoch
    driver.core.end(0)
    assert (driver.status, driver.core.is_resetting) == (0, False)


@pytest.mark.parametrize(("offset", "size"), [(0x70, 1), (0x70, 8), (0x71, 4), (0x72, 2)])
def test_only_whole_registers_are_accessed(offset: int, size: int) -> None:
    driver = Driver()
    driver.write(offset, 1, size)
    assert driver.status == 0
    driver.start()
    assert driver.read(offset, size) == 0
