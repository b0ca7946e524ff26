# SPDX-License-Identifier: MIT
"""Interrupts of a machine's devices: what they share, what they refuse, and their end."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pyvmm.errors import SystemCallError, UsageError
from pyvmm.hosts.interrupts import DoorbellPlace, Msi, Trigger
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.vm import ModelVm
from pyvmm.machine.device_interrupts import DeviceInterrupts

LEVEL_TRIGGERED = 0x4D0


@pytest.fixture
def vm() -> Iterator[ModelVm]:
    with ModelSystem() as system, system.create_vm() as vm:
        yield vm


@pytest.fixture
def interrupts(vm: ModelVm) -> Iterator[DeviceInterrupts]:
    vm.create_irqchip()
    assert vm.controllers is not None
    vm.controllers.port_write(LEVEL_TRIGGERED, 1, 0xFF)
    with DeviceInterrupts(vm, has_controllers=True) as interrupts:
        yield interrupts


def requests(vm: ModelVm) -> int | None:
    """The first 8259's request register: the levels of its lines, all being level-triggered."""
    assert vm.controllers is not None
    return vm.controllers.port_read(0x20, 1)


def test_a_device_s_level_and_the_test_device_s_hold_a_pin_up_together(
    vm: ModelVm, interrupts: DeviceInterrupts
) -> None:
    console = interrupts.level(4, "the console")
    assert console is not None
    interrupts.set_pin("pc-testdev", 4, False)
    console(True)
    interrupts.set_pin("pc-testdev", 4, True)
    interrupts.set_pin("pc-testdev", 5, True)
    assert requests(vm) == 1 << 4 | 1 << 5
    console(False)
    assert requests(vm) == 1 << 4 | 1 << 5
    interrupts.set_pin("pc-testdev", 4, False)
    assert requests(vm) == 1 << 5


def test_a_pin_that_a_device_has_for_itself_is_not_the_test_device_s(
    vm: ModelVm, interrupts: DeviceInterrupts
) -> None:
    with interrupts.line(5, Trigger.LEVEL, "the disk"):
        for level in (True, False, True):
            interrupts.set_pin("pc-testdev", 5, level)
            assert requests(vm) == 0


def test_a_pin_taken_twice_names_both(interrupts: DeviceInterrupts) -> None:
    interrupts.level(4, "16550 at COM1")
    with pytest.raises(UsageError, match="give GSI 4 to the disk: 16550 at COM1 has it"):
        interrupts.line(4, Trigger.LEVEL, "the disk")


def test_without_controllers_there_is_no_level_and_all_doorbells(vm: ModelVm) -> None:
    with DeviceInterrupts(vm, has_controllers=False) as interrupts:
        assert interrupts.level(4, "the console") is None
        with pytest.raises(SystemCallError):
            interrupts.message("the disk")
        bell = interrupts.doorbell(DoorbellPlace(0x61, 1, is_port=True), "the disk")
    assert bell.fileno() == -1


def test_all_of_it_ends_with_the_machine(vm: ModelVm) -> None:
    vm.create_irqchip()
    before = set(os.listdir("/proc/self/fd"))
    with DeviceInterrupts(vm, has_controllers=True) as interrupts:
        interrupts.set_pin("pc-testdev", 4, True)
        message = interrupts.message("the disk")
        message.route(Msi(0xFEE0_0000, 0x50))
        message.signal()
        interrupts.line(5, Trigger.LEVEL, "the disk", resample=True)
        interrupts.doorbell(DoorbellPlace(0x61, 1, is_port=True), "the disk")
        assert set(os.listdir("/proc/self/fd")) > before
    assert set(os.listdir("/proc/self/fd")) <= before
    assert not message.is_pending
    vm.create_line(4, Trigger.EDGE, "another").close()
