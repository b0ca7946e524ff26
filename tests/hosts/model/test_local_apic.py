# SPDX-License-Identifier: MIT
"""The model's local APIC: priorities, registers, and what it does not take."""

from __future__ import annotations

import pytest

from pyvmm.hosts import exits
from pyvmm.hosts.model.local_apic import LocalApic
from tests.hosts.model.small_guest import after, guest
from tests.hosts.model.test_interrupts import with_controllers

ID, VERSION, TASK_PRIORITY, PROCESSOR_PRIORITY, END, SPURIOUS = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xF0
IN_SERVICE, REQUESTS = 0x100, 0x200


def enabled(index: int = 0) -> LocalApic:
    apic = LocalApic(index)
    assert apic.write(SPURIOUS, 0x1FF)
    return apic


def test_it_takes_nothing_before_it_is_enabled_and_no_reserved_vector() -> None:
    apic = LocalApic(0)
    apic.accept(0x50)
    assert apic.write(SPURIOUS, 0x1FF)
    apic.accept(15)
    assert apic.waiting is None
    apic.accept(16)
    assert apic.waiting == 16


def test_the_highest_comes_first_and_interrupts_only_lower_classes() -> None:
    apic = enabled()
    for vector in (0x51, 0x58, 0x41):
        apic.accept(vector)
    assert apic.acknowledge() == 0x58
    assert apic.read(PROCESSOR_PRIORITY) == 0x50
    assert apic.acknowledge() is None
    apic.accept(0xFF)
    assert apic.acknowledge() == 0xFF
    assert apic.write(END, 0)
    assert apic.acknowledge() is None
    assert apic.write(END, 0)
    assert apic.acknowledge() == 0x51
    assert apic.write(END, 0)
    assert apic.acknowledge() == 0x41
    assert apic.write(END, 0)
    assert apic.write(END, 0)
    assert apic.waiting is None


def test_the_task_priority_keeps_its_class_and_lower_ones_back() -> None:
    apic = enabled()
    apic.accept(0x5F)
    assert apic.write(TASK_PRIORITY, 0x50)
    assert apic.waiting is None
    assert apic.write(TASK_PRIORITY, 0x4F)
    assert apic.waiting == 0x5F


def test_registers_show_what_there_is() -> None:
    apic = enabled(3)
    assert apic.read(ID) == 3 << 24
    assert apic.read(VERSION) == 0x50014
    assert apic.read(SPURIOUS) == 0x1FF
    apic.accept(0x20)
    apic.accept(0xFF)
    assert apic.read(REQUESTS + 0x10) == 1
    assert apic.read(REQUESTS + 0x70) == 1 << 31
    apic.acknowledge()
    assert apic.read(REQUESTS + 0x70) == 0
    assert apic.read(IN_SERVICE + 0x70) == 1 << 31
    assert apic.write(ID, 0)  # without effect, as on KVM
    assert apic.read(ID) == 3 << 24


@pytest.mark.parametrize("offset", [0xD0, 0xE0, 0x280, 0x300, 0x310, 0x320, 0x350, 0x380, 0x3E0])
def test_what_the_model_lacks_is_none_of_its_registers(offset: int) -> None:
    assert enabled().read(offset) is None
    assert not enabled().write(offset, 1)


def test_it_is_saved_and_restored() -> None:
    apic = enabled()
    apic.accept(0x50)
    apic.accept(0x60)
    apic.write(TASK_PRIORITY, 0x10)
    assert apic.acknowledge() == 0x60
    other = LocalApic(0)
    other.restore(apic.save())
    assert other.save() == apic.save()
    assert other.acknowledge() is None
    other.write(END, 0)
    assert other.acknowledge() == 0x50
    assert other.read(TASK_PRIORITY) == 0x10


@pytest.mark.parametrize("is_on", [False, True])
def test_a_vcpu_whose_apic_is_on_does_not_sleep_for_good(is_on: bool) -> None:
    services, _ = with_controllers()
    source = f"movl ${0x1FF if is_on else 0xFF:#x}, 0xfee000f0; sti; hlt; jmp ."
    with guest(source, services, index=1) as v:
        timer = after(0.01, v.kick)
        while not v.get_further().halted:
            assert v.run() == exits.Interrupted()
            timer.join()
            timer = after(0.01, v.kick)
        timer.join()
        assert v.sleeps_for_good() is not is_on
