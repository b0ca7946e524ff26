# SPDX-License-Identifier: MIT
"""Doorbells of a virtio device on PCI: there while it runs and its ports are decoded."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pyvmm.devices.bus import Bus
from pyvmm.devices.pci.segment import GuardedFunction
from pyvmm.devices.placement import Space
from pyvmm.devices.virtio.features import Feature
from pyvmm.devices.virtio.pci import REGISTERS_BAR
from pyvmm.devices.virtio.pci_registers import Register
from pyvmm.hosts.interrupts import DoorbellPlace
from pyvmm.hosts.model.system import ModelSystem
from pyvmm.machine.device_interrupts import DeviceInterrupts
from pyvmm.machine.pci.function import PciSide
from pyvmm.machine.pci.interrupts import Vectors
from pyvmm.machine.pci.windows import BarWindows
from tests.devices.virtio.test_pci import IO, MASTER, Device


class Running(Device):
    """A device with doorbells in a VM; `ring` says which of its queues a guest's write tells."""

    def __init__(self, interrupts: DeviceInterrupts, windows: BarWindows, name: str) -> None:
        super().__init__(more=Feature.NOTIFICATION_DATA)
        self.function = GuardedFunction(name, self.pci.space, threading.Lock())
        self.side = PciSide(self.pci, self.function, windows, interrupts, Vectors(interrupts, name))
        self.windows = windows
        self.bells = self.side.doorbells(())
        self.pci.on_place = self._place
        self.core.on_start = self.core.on_stop = self._take

    def _place(self) -> None:
        self.windows.update(self.function)
        self._take()

    def _take(self) -> None:
        self.bells = self.side.doorbells(tuple(self.core.running_queues()))

    def is_told(self, queue: int) -> bool:
        return queue in self.bells and bool(self.bells[queue].drain())


class Machine:
    def __init__(self, vm: object, interrupts: DeviceInterrupts) -> None:
        self.vm = vm
        self.interrupts = interrupts
        self.windows = BarWindows()
        buses = {Space.PORT: Bus("port", 0x10000), Space.MMIO: Bus("MMIO", 1 << 64)}
        self.windows.attach(buses, ())

    def device(self, name: str) -> Running:
        return Running(self.interrupts, self.windows, name)

    def ring(self, port: int, size: int = 2) -> bool:
        return bool(self.vm.doorbells.ring(port, size, 0, is_port=True))  # type: ignore[attr-defined]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with ModelSystem() as system, system.create_vm() as vm:
        vm.create_irqchip()
        with DeviceInterrupts(vm, has_controllers=True) as interrupts:
            yield Machine(vm, interrupts)


def test_they_come_when_the_device_runs_follow_its_bar_and_go_with_a_reset(
    machine: Machine,
) -> None:
    disk = machine.device("disk")
    assert not machine.ring(0xC180)
    disk.start()
    assert machine.ring(0xC180)
    assert disk.is_told(0)
    assert not machine.ring(0xC184)  # Of a queue that is not enabled.
    disk.function.write(0x10, 4, 0xD000)
    assert not machine.ring(0xC180)
    assert machine.ring(0xD080)
    assert disk.is_told(0)
    disk.function.write(4, 2, MASTER)
    assert not machine.ring(0xD080)
    disk.function.write(4, 2, MASTER | IO)
    assert machine.ring(0xD080)
    disk.function.write(4, 2, IO)  # A device that may not reach memory is told by its registers.
    assert not machine.ring(0xD080)
    disk.function.write(4, 2, MASTER | IO)
    disk.write(Register.STATUS, 1, 0)
    assert not machine.ring(0xD080)
    assert machine.interrupts.count == 0


def test_with_notification_data_they_are_as_wide_as_that(machine: Machine) -> None:
    disk = machine.device("disk")
    disk.start(Feature.VERSION_1 | Feature.NOTIFICATION_DATA)
    assert not machine.ring(0xC180)
    assert machine.ring(0xC180, 4)


def test_two_devices_at_one_place_never_have_each_other_s(machine: Machine) -> None:
    disk, other = machine.device("disk"), machine.device("other")
    disk.start()
    other.start()  # Its BAR is where the first one's is.
    assert machine.windows.start(other.function, REGISTERS_BAR) is None
    assert machine.ring(0xC180)
    assert (disk.is_told(0), other.is_told(0)) == (True, False)
    disk.function.write(0x10, 4, 0xD000)
    assert machine.windows.start(other.function, REGISTERS_BAR) == 0xC100
    other._take()
    assert machine.ring(0xC180)
    assert (disk.is_told(0), other.is_told(0)) == (False, True)


def test_a_place_that_another_has_not_left_yet_is_left_alone(machine: Machine) -> None:
    place = DoorbellPlace(0xC180, 2, is_port=True)
    left = machine.interrupts.doorbell(place, "another")
    disk = machine.device("disk")
    disk.start()
    assert disk.bells == {}
    machine.interrupts.give_back(left)
    disk._take()
    assert 0 in disk.bells
