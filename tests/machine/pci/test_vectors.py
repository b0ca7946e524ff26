# SPDX-License-Identifier: MIT
"""Vectors of a function as messages of a VM's, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pyvmm.devices.pci.msix import VectorChange
from pyvmm.hosts.interrupts import DoorbellPlace, Msi
from pyvmm.hosts.kvm.gsis import Gsis
from pyvmm.hosts.kvm.interrupts import MsiRoute
from pyvmm.hosts.kvm.messages import Message
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.hosts.model.vm import ModelVm
from pyvmm.machine.device_interrupts import DeviceInterrupts
from pyvmm.machine.pci.interrupts import Vectors

ADDRESS = 0xFEE0_0000


@pytest.fixture
def vm() -> Iterator[ModelVm]:
    with ModelSystem() as system, system.create_vm() as vm:
        vm.create_irqchip()
        yield vm


@pytest.fixture
def interrupts(vm: ModelVm) -> Iterator[DeviceInterrupts]:
    with DeviceInterrupts(vm, has_controllers=True) as interrupts:
        yield interrupts


def unmasked(*vectors: int) -> tuple[VectorChange, ...]:
    return tuple(VectorChange(one, Msi(ADDRESS, 0x40 + one), False) for one in vectors)


class Kernel:
    """The kernel's part of a VM on KVM: its routes, each time that they are written."""

    fd = 0

    def __init__(self) -> None:
        self.written: list[list[int]] = []
        self.assigned: list[int] = []
        self.gsis = Gsis(self)  # type: ignore[arg-type]
        self.changing_routes = self.gsis.changing

    def set_gsi_routing(self, routes: list[Any]) -> None:
        self.written.append([one.msi.data for one in routes if isinstance(one, MsiRoute)])

    def assign_irqfd(self, fd: int, gsi: int) -> None:
        del fd
        self.assigned.append(gsi)

    def deassign_irqfd(self, fd: int, gsi: int) -> None:
        del fd
        self.assigned.remove(gsi)

    def create_message(self, owner: str) -> Message:
        return Message(self.gsis, owner)


def test_vectors_that_are_unmasked_together_are_one_change_of_routes() -> None:
    kernel = Kernel()
    with DeviceInterrupts(kernel, has_controllers=True) as interrupts:  # type: ignore[arg-type]
        Vectors(interrupts, "disk").change(unmasked(0, 1, 2))
        assert kernel.written == [[0x40, 0x41, 0x42]]
        assert len(kernel.assigned) == 3
    assert kernel.assigned == []


def test_what_a_masked_vector_keeps_is_pending_until_it_is_forgotten(
    interrupts: DeviceInterrupts,
) -> None:
    vectors = Vectors(interrupts, "disk")
    assert not vectors.is_pending(1)
    vectors.signal(1)
    assert vectors.is_pending(1)
    vectors.change(unmasked(1))
    assert not vectors.is_pending(1)
    vectors.change((VectorChange(1, Msi(ADDRESS, 0x41), True),))
    vectors.keep((1, 2))
    assert [one for one in range(3) if vectors.is_pending(one)] == [1, 2]
    vectors.forget()
    assert not any(map(vectors.is_pending, range(3)))


def test_a_driver_that_comes_and_goes_leaves_nothing_behind(interrupts: DeviceInterrupts) -> None:
    vectors = Vectors(interrupts, "disk")
    first = vectors.message(0)
    place = DoorbellPlace(0xC080, 2, is_port=True)
    for _ in range(3):
        vectors.change(unmasked(0, 1))
        bell = interrupts.doorbell(place, "disk")
        vectors.forget()
        interrupts.give_back(bell)
        interrupts.give_back(bell)
    assert vectors.message(0) is not first
    vectors.forget()
    assert interrupts.count == 0


def test_what_was_not_given_back_is_closed_at_the_end(vm: ModelVm) -> None:
    with DeviceInterrupts(vm, has_controllers=True) as interrupts:
        bell = interrupts.doorbell(DoorbellPlace(0xC080, 2, is_port=True), "disk")
        assert interrupts.count == 1
        assert bell.fileno() >= 0
    assert bell.fileno() == -1
