# SPDX-License-Identifier: MIT
"""The core of a virtio device, in the order in which a driver must use it, and in any other."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pyvmm.devices.virtio.core import VirtioCore
from pyvmm.devices.virtio.features import DeviceStatus, Feature
from pyvmm.devices.virtio.rings import QueueLayout, QueuePlace, QueuePosition
from pyvmm.devices.virtio.saved import SavedVirtqueue
from pyvmm.errors import UsageError
from tests.devices.virtio.a_model import PlainModel

DRIVER, FEATURES_OK, DRIVER_OK, NEEDS_RESET = 3, 11, 15, 0x40
VERSION_1 = int(Feature.VERSION_1)
PLACE = QueuePlace(16, 0x1_0000_1000, 0x2000, 0x3000)


def negotiate(core: VirtioCore, features: int = VERSION_1) -> None:
    core.write_status(DRIVER)
    for word in (0, 1):
        core.acknowledge(word, features >> 32 * word & 0xFFFF_FFFF)
    core.write_status(FEATURES_OK)


def set_up(core: VirtioCore, number: int = 0, place: QueuePlace = PLACE) -> None:
    queue = core.queue(number)
    assert queue is not None
    queue.set_size(place.size)
    for part in range(3):
        queue.set_address(part, place[1 + part])
    core.enable(number)


def start(core: VirtioCore, features: int = VERSION_1) -> None:
    negotiate(core, features)
    set_up(core)
    core.write_status(DRIVER_OK)


@pytest.mark.parametrize(
    ("features", "private", "accepted"),
    [
        (VERSION_1, False, True),
        (VERSION_1 | 1 << 9 | Feature.INDIRECT | Feature.EVENT_INDEX, False, True),
        (0, False, False),
        (VERSION_1 | 1 << 5, False, False),
        (VERSION_1 | Feature.PACKED, False, False),
        (VERSION_1 | Feature.ACCESS_PLATFORM, False, False),
        (VERSION_1 | Feature.ACCESS_PLATFORM, True, True),
        (VERSION_1, True, False),
    ],
)
def test_features_are_accepted_or_not(features: int, private: bool, accepted: bool) -> None:
    core = VirtioCore(PlainModel(), private=private)
    negotiate(core, features)
    assert core.status == (FEATURES_OK if accepted else DRIVER)
    assert core.features == (features if accepted else 0)
    core.write_status(DRIVER_OK)
    assert core.status == (DRIVER_OK if accepted else DRIVER)


def test_no_bit_that_is_not_offered_is_accepted() -> None:
    core = VirtioCore(PlainModel(), more=Feature.PACKED)
    offered = core.offered(0) | core.offered(1) << 32
    accepted = 0
    for bit in range(64):
        core.write_status(0)
        negotiate(core, VERSION_1 | 1 << bit)
        accepted |= core.features
    assert accepted == offered


def test_a_model_may_refuse_what_it_offers() -> None:
    core = VirtioCore(PlainModel(refused=1 << 9))
    negotiate(core, VERSION_1 | 1 << 9)
    assert core.status == DRIVER


def test_a_queue_is_frozen_when_it_is_enabled() -> None:
    core = VirtioCore(PlainModel())
    set_up(core)
    assert core.queue(0).place == QueuePlace(256, 0, 0, 0)  # type: ignore[union-attr]
    start(core, VERSION_1 | Feature.EVENT_INDEX)
    set_up(core, place=QueuePlace(32, 0, 0, 0))
    core.enable(0, enabled=False)
    layout = QueueLayout(PLACE, Feature.VERSION_1 | Feature.EVENT_INDEX)
    assert (core.running(0), core.running(1)) == (layout, None)


@pytest.mark.parametrize("number", [-1, 2, 0xFFFF, 1 << 32])
def test_a_queue_that_is_not_there_takes_nothing(number: int) -> None:
    core = VirtioCore(PlainModel())
    told: list[int] = []
    core.on_notify = told.append
    negotiate(core)
    core.enable(number)
    core.notify(number)
    assert core.queue(number) is None
    assert (core.status, told) == (FEATURES_OK, [])


@pytest.mark.parametrize(
    "place", [PLACE._replace(size=3), PLACE._replace(size=512), PLACE._replace(device=0x3001)]
)
def test_a_queue_that_cannot_be_needs_a_reset(place: QueuePlace) -> None:
    core = VirtioCore(PlainModel())
    negotiate(core)
    set_up(core, place=place)
    core.write_status(DRIVER_OK)
    assert (core.status, core.running(0)) == (DRIVER_OK | NEEDS_RESET, None)
    core.write_status(0)
    assert core.status == 0


def test_a_reset_waits_for_every_queue_that_is_worked_on() -> None:
    core = VirtioCore(PlainModel())
    ended: list[int] = []
    core.on_ended = lambda: ended.append(core.status)
    start(core)
    epoch = core.begin(0)
    core.begin(1)
    core.write_status(0)
    core.write_status(DRIVER)
    assert core.epoch != epoch
    core.end(0)
    assert (core.status, core.is_resetting, ended) == (DRIVER_OK, True, [])
    core.end(1)
    assert (core.status, core.is_resetting, ended) == (0, False, [0])


def test_without_leave_there_is_no_dma() -> None:
    core = VirtioCore(PlainModel())
    core.allow_dma(False)
    start(core)
    told: list[int] = []
    core.on_notify = told.append
    assert core.running(0) is None
    core.allow_dma(True)
    assert core.running(0) is not None
    assert told == [0, 1]


def test_nobody_is_interrupted_before_the_driver_is_ready() -> None:
    core = VirtioCore(PlainModel())
    told: list[int | None] = []
    core.on_interrupt = told.append
    negotiate(core)
    core.interrupt(0)
    core.config_changed()
    assert (told, core.generation) == ([], 1)
    core.write_status(DRIVER_OK)
    core.interrupt(0)
    core.fail()
    core.fail()
    assert told == [0, None]


def test_configuration_is_read_and_written_within_its_bounds() -> None:
    core = VirtioCore(PlainModel())
    core.write_config(12, 4, 0xAABBCCDD)
    core.write_config(13, 4, 0)
    core.write_config(1 << 20, 1, 1)
    assert core.read_config(12, 4) == 0xAABBCCDD
    assert core.read_config(14, 4) == 0xAABB
    assert core.read_config(16, 8) == core.read_config(1 << 30, 1) == 0


def test_a_saved_core_goes_on_in_another_one() -> None:
    core, other = VirtioCore(PlainModel()), VirtioCore(PlainModel())
    start(core, VERSION_1 | 1 << 9)
    core.move(0, QueuePosition(7, 6))
    looked: list[bool] = []
    other.on_restore = lambda: looked.append(True)
    other.restore(core.save())
    assert other.save() == core.save()
    assert (other.running(0), other.position(0)) == (core.running(0), QueuePosition(7, 6))
    assert looked == [True]


def test_a_core_with_other_queues_or_features_is_not_restored() -> None:
    saved = VirtioCore(PlainModel()).save()
    with pytest.raises(UsageError, match="it has 1 queues, the one that was saved 2"):
        VirtioCore(PlainModel(queue_sizes=(16,))).restore(saved)
    core = VirtioCore(PlainModel(), more=Feature.PACKED)
    start(core, VERSION_1 | Feature.PACKED)
    other = VirtioCore(PlainModel())
    with pytest.raises(UsageError, match="features that it lacks"):
        other.restore(core.save())
    assert other.status == 0
    assert DeviceStatus(core.status) == DRIVER_OK


@pytest.mark.parametrize(
    "changed",
    [{"status": 256}, {"features": 1 << 64}, {"generation": -1}],
)
def test_a_value_that_no_core_was_saved_with_is_refused(changed: dict[str, Any]) -> None:
    core = VirtioCore(PlainModel())
    with pytest.raises(UsageError, match=next(iter(changed))):
        dataclasses.replace(core.save(), **changed)


@pytest.mark.parametrize(
    ("place", "position"),
    [
        (QueuePlace(3, 0, 0, 0), QueuePosition()),
        (QueuePlace(1 << 32, 0, 0, 0), QueuePosition()),
        (QueuePlace(16, -1, 0, 0), QueuePosition()),
        (QueuePlace(16, 0, 0, 1 << 64), QueuePosition()),
        (PLACE, QueuePosition(1 << 16)),
        (PLACE, QueuePosition(0, -1)),
    ],
)
def test_a_queue_that_no_core_was_saved_with_is_refused(
    place: QueuePlace, position: QueuePosition
) -> None:
    saved = VirtioCore(PlainModel()).save()
    with pytest.raises(UsageError, match="no device was ever saved with such"):
        dataclasses.replace(saved, queues=(SavedVirtqueue(place, True, position),) * 2)


def test_a_packed_queue_was_not_saved_behind_its_end() -> None:
    features = int(Feature.VERSION_1 | Feature.PACKED)
    saved = VirtioCore(PlainModel()).save()
    queue = SavedVirtqueue(PLACE._replace(size=12), True, QueuePosition(11, 11))
    dataclasses.replace(saved, features=features, queues=(queue,))
    late = SavedVirtqueue(queue.place, True, QueuePosition(12, 0))
    with pytest.raises(UsageError, match="such queues"):
        dataclasses.replace(saved, features=features, queues=(late,))
